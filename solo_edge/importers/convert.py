"""From a foreign checkpoint's tensors to a configuration and weights of ours; no key goes unaccounted."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from solo_edge.config import PRESETS, ModelConfig, from_dict, preset
from solo_edge.errors import ArtifactError, UsageError, did_you_mean
from solo_edge.importers.adelaidet import ADELAIDET
from solo_edge.importers.layout import Account, Layout
from solo_edge.importers.mmdetection import MMDETECTION
from solo_edge.importers.official import OFFICIAL
from solo_edge.importers.paddle import PADDLE
from solo_edge.importers.sizes import BIAS_BEFORE_NORM, model_fields, obstacles

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LAYOUTS", "Choices", "Imported", "choose_layout", "import_model", "listed"]

LAYOUTS: dict[str, Layout] = {
    layout.name: layout for layout in (OFFICIAL, MMDETECTION, ADELAIDET, PADDLE)
}
SHOWN = 12  # keys named in an error; `solo-edge import-checkpoint --keys` lists all of the file's


@dataclass(frozen=True)
class Choices:
    """What a person decides instead of the file."""

    layout: str | None = None  # one of LAYOUTS
    preset: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)  # fields of ModelConfig
    channels: Literal["rgb", "bgr"] | None = None  # what the file's first convolution reads


@dataclass(frozen=True)
class Imported:
    """A foreign checkpoint, translated."""

    layout: Layout
    config: ModelConfig
    weights: dict[str, Tensor]  # float32, under our names
    account: Account
    channels: str


def import_model(
    tensors: Mapping[str, Tensor], where: str, choices: Choices | None = None
) -> Imported:
    """Translate a foreign SOLOv2 checkpoint.

    What the shapes do not tell (input size, grid sizes, scale ranges) is that of the preset, by default
    of the authors' full configuration where the heads are wider than 256 channels, else of their light one.

    Raises:
        UsageError: a preset or layout that does not exist.
        ArtifactError: no layout fits or several do; keys are unknown, missing or of another shape; the
            file contradicts the preset; it holds something that our models cannot.
    """
    choices = choices or Choices()
    layout = choose_layout(tensors, where, choices.layout)
    account = account_for(tensors, layout, forced=choices.layout is not None)
    _require_known(account, layout, where)
    weights = _renamed(tensors, account, where)
    account = _leave_out_zero_biases(account, weights)
    config = _config(weights, layout, choices, where)
    _require_fit(weights, config, {ours: key for key, ours in account.names.items()}, where)
    channels = choices.channels or layout.channels
    if channels == "bgr":
        # conv1.weight, or conv1.0.weight where three convolutions make the stem.
        stem = min(name for name in weights if name.startswith("backbone.body.conv1."))
        weights[stem] = weights[stem][:, [2, 1, 0]]
    return Imported(layout, config, weights, account, channels)


def choose_layout(keys: Collection[str], where: str, name: str | None = None) -> Layout:
    """The layout that a file's keys belong to; `name` decides where several fit."""
    fitting = [layout for layout in LAYOUTS.values() if layout.marks(keys)]
    if name is not None:
        if name not in LAYOUTS:
            raise UsageError(f"unknown layout {name!r}", fix=did_you_mean(name, LAYOUTS))
        if LAYOUTS[name] in fitting:
            return LAYOUTS[name]
        fix = f"leave --format away; known: {', '.join(LAYOUTS)}"
        raise ArtifactError(f"none of its keys is of the layout {name}", where=where, fix=fix)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        what = " and ".join(f"{layout.name} ({layout.marks(keys)[0]})" for layout in fitting)
        fix = "say which with solo-edge import-checkpoint --format"
        raise ArtifactError(f"the keys fit several layouts: {what}", where=where, fix=fix)
    known = ", ".join(layout.title for layout in LAYOUTS.values())
    raise ArtifactError(
        f"no checkpoint layout that we know (ours, {known}); its keys are {listed(keys, 3)}",
        where=where,
        fix="check that it is a SOLOv2 checkpoint; ImageNet weights go to solo-edge train --init",
    )


def account_for(keys: Collection[str], layout: Layout, *, forced: bool) -> Account:
    """What becomes of every key.

    Args:
        forced: a person chose the layout: keys of other layouts that are also in the file are left out.
    """
    account = layout.account(keys)
    if not forced or not account.unknown:
        return account
    others = {
        key: f"of the layout {other.name}"
        for other in LAYOUTS.values()
        if other is not layout and other.marks(keys)
        for key in other.account(account.unknown).names
    }
    unknown = tuple(key for key in account.unknown if key not in others)
    return Account(account.names, {**account.ignored, **others}, unknown)


def listed(names: Iterable[str], limit: int = SHOWN) -> str:
    """The first `limit` of `names`, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _require_known(account: Account, layout: Layout, where: str) -> None:
    problems = []
    if account.unknown:
        problems.append(f"{len(account.unknown)} unknown: {listed(account.unknown)}")
    seen: dict[str, str] = {}
    for key, name in account.names.items():
        if name in seen:
            problems.append(f"{seen[name]} and {key} are the same weight")
        seen[name] = key
    if problems:
        what = f"not all keys are of the layout {layout.name}: {'; '.join(problems)}"
        fix = "see solo-edge import-checkpoint --keys for all of them"
        raise ArtifactError(what, where=where, fix=fix)


def _renamed(tensors: Mapping[str, Tensor], account: Account, where: str) -> dict[str, Tensor]:
    """The weights under our names, in float32."""
    wrong = [f"{key} ({reason})" for key in account.names if (reason := _not_weights(tensors[key]))]
    if wrong:
        raise ArtifactError(
            f"{len(wrong)} entries are no weights: {listed(wrong)}",
            where=where,
            fix="the file is damaged, or not what it seems",
        )
    return {name: tensors[key].detach().float() for key, name in account.names.items()}


def _leave_out_zero_biases(account: Account, weights: dict[str, Tensor]) -> Account:
    """Paddle gives deformable convolutions a bias, which ours lack; one of zeros says nothing."""
    names, ignored = dict(account.names), dict(account.ignored)
    for key, name in account.names.items():
        if re.fullmatch(BIAS_BEFORE_NORM, name) and not bool(weights[name].any()):
            del weights[name], names[key]
            ignored[key] = "biases, all zero"
    return Account(names, ignored, account.unknown)


def _not_weights(tensor: Tensor) -> str | None:
    """Why `tensor` cannot be a weight."""
    import torch

    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        return "not a plain tensor"
    if not tensor.is_floating_point() or tensor.dtype.itemsize < 2:
        return f"of type {str(tensor.dtype).removeprefix('torch.')}"
    if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.dtype.itemsize:
        return "larger than its data"
    return None if bool(tensor.isfinite().all()) else "NaN or infinite"


def _config(
    weights: Mapping[str, Tensor], layout: Layout, choices: Choices, where: str
) -> ModelConfig:
    wide = weights.get("head.category_out.weight")
    full = wide is not None and wide.ndim == 4 and wide.shape[1] > 256
    base = preset(choices.preset or ("solov2-r50-800" if full else "solov2-light-r50-448"))
    found = model_fields(weights, base)
    if reasons := obstacles(weights, found["head_depth"]):
        what = f"it has what our models cannot hold: {'; '.join(reasons)}"
        raise ArtifactError(what, where=where, fix="use a checkpoint without")
    if found["backbone"] is None:
        fix = "known are ResNets of 18, 34, 50, 101 and 152 layers, their C, D, X and wide forms"
        raise ArtifactError("its residual blocks are those of no ResNet", where=where, fix=fix)
    _require_agreement(found, base if choices.preset else None, choices.changes, where)
    name = f"{layout.name}-{found['backbone']}"
    values = {**vars(base), **layout.fields, **found, "name": name, **choices.changes}
    try:
        return from_dict(ModelConfig, values)
    except UsageError as error:
        raise ArtifactError(f"no model for it: {error.what}", where=where, fix=error.fix) from None


def _require_agreement(
    found: Mapping[str, Any], asked: ModelConfig | None, changes: Mapping[str, Any], where: str
) -> None:
    """Neither the preset nor a changed field contradicts what the shapes say."""
    wanted = dict(changes)
    if asked is not None:  # a preset stands for any number of classes
        wanted = {**vars(asked), "num_classes": found["num_classes"], **changes}
    differing = [
        f"{field} {value}, not {wanted[field]}"
        for field, value in found.items()
        if field in wanted and wanted[field] != value
    ]
    if not differing:
        return
    fitting = [
        name
        for name, config in PRESETS.items()
        if all(getattr(config, f) == value for f, value in found.items() if f != "num_classes")
    ]
    raise ArtifactError(
        f"the file contradicts {'--preset' if asked else '--set'}: it has {', '.join(differing)}",
        where=where,
        fix=f"use --preset {fitting[0]}" if fitting else "give neither for what the weights tell",
    )


def _require_fit(
    weights: Mapping[str, Tensor], config: ModelConfig, theirs: Mapping[str, str], where: str
) -> None:
    """The model of `config` has exactly these weights, in these shapes."""
    import torch

    from solo_edge.models.solov2 import SOLOv2

    try:
        with torch.device("meta"):  # shapes without memory
            model = SOLOv2(config)
    except UsageError as error:
        raise ArtifactError(f"no model for it: {error.what}", where=where, fix=error.fix) from None
    expected = {
        name: tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    problems = []
    if missing := [name for name in expected if name not in weights]:
        problems.append(f"{len(missing)} weights are missing (by our names): {listed(missing)}")
    if over := [theirs[name] for name in weights if name not in expected]:
        problems.append(f"{len(over)} have no place in our {config.backbone}: {listed(over)}")
    wrong = [
        f"{theirs[name]} is {tuple(tensor.shape)}, not {expected[name]}"
        for name, tensor in weights.items()
        if name in expected and tuple(tensor.shape) != expected[name]
    ]
    if wrong:
        problems.append(f"{len(wrong)} have another shape: {listed(wrong)}")
    if problems:
        fix = "the file is partial or of another model; see solo-edge import-checkpoint --keys"
        raise ArtifactError("; ".join(problems), where=where, fix=fix)

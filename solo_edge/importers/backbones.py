"""ImageNet weights for a backbone (`--init`), under timm's or torchvision's key names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from solo_edge.errors import ArtifactError
from solo_edge.importers.convert import listed

if TYPE_CHECKING:
    from torch import Tensor

    from solo_edge.models.backbone import Backbone

__all__ = ["load_backbone_weights"]


def load_backbone_weights(backbone: Backbone, tensors: Mapping[str, Tensor], where: str) -> int:
    """Copy ImageNet weights into `backbone`; returns how many tensors were taken.

    The classifier of the same network may be there too. Of a detector's weights only those under
    `backbone.` are looked at.

    Raises:
        ArtifactError: a tensor of the backbone is missing or has another shape, or there is one that the
            whole network has not (weights of a deeper one, say); the backbone is unchanged.
    """
    wanted = {
        key: tensor
        for key, tensor in backbone.body.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    given = _backbone_part(tensors)
    if "features.0.0.weight" in given:
        given = _mobilenet_v2(given)
    chosen = {key: given[key] for key in wanted if key in given}
    problems = []
    if missing := [key for key in wanted if key not in given]:
        problems.append(f"{len(missing)} are missing: {listed(missing)}")
    if wrong := [
        f"{key} has shape {tuple(tensor.shape)}, not {tuple(wanted[key].shape)}"
        for key, tensor in chosen.items()
        if tensor.shape != wanted[key].shape
    ]:
        problems.append(listed(wrong))
    known = wanted.keys() | _classifier_keys(backbone.name)
    if unknown := [key for key in given if key not in known and "num_batches" not in key]:
        problems.append(f"{len(unknown)} are not in {backbone.name}: {listed(unknown)}")
    if broken := [key for key, tensor in chosen.items() if not bool(tensor.isfinite().all())]:
        problems.append(f"{len(broken)} are NaN or infinite: {listed(broken)}")
    if problems:
        raise ArtifactError(
            f"weights do not fit the backbone: {'; '.join(problems)}",
            where=where,
            fix="give ImageNet weights of the preset's backbone, under timm's or torchvision's names",
        )
    backbone.body.load_state_dict(chosen, strict=False)
    return len(chosen)


def _backbone_part(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = "backbone."
    inside = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
    return inside or dict(tensors)


def _classifier_keys(name: str) -> set[str]:
    """All keys of timm's whole network: a backbone is a part of it."""
    import timm

    return set(timm.create_model(name, pretrained=False).state_dict())


def _mobilenet_v2(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's MobileNetV2 names -> timm's: `features.4.conv.1.0` is `blocks.2.0.conv_dw`, and so on.

    Names of no such network stay as they are.
    """
    renamed = {}
    # timm groups the inverted residuals into stages; torchvision counts them through.
    stages = [(stage, block) for stage, n in enumerate((1, 2, 3, 4, 3, 3, 1)) for block in range(n)]
    first = {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"}  # no expansion
    later = {
        "0.0": "conv_pw",
        "0.1": "bn1",
        "1.0": "conv_dw",
        "1.1": "bn2",
        "2": "conv_pwl",
        "3": "bn3",
    }
    ends = {"features.0.0": "conv_stem", "features.0.1": "bn1", "classifier.1": "classifier"}
    ends |= {"features.18.0": "conv_head", "features.18.1": "bn2"}
    for index, (stage, block) in enumerate(stages, start=1):
        for theirs, ours in (first if index == 1 else later).items():
            ends[f"features.{index}.conv.{theirs}"] = f"blocks.{stage}.{block}.{ours}"
    for key, tensor in tensors.items():
        module, _, weight = key.rpartition(".")
        renamed[f"{ends[module]}.{weight}" if module in ends else key] = tensor
    return renamed

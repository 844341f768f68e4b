"""Parts of the network that do not learn, for the whole run or its first epochs."""

from __future__ import annotations

from torch import nn

from solo_edge.errors import UsageError, did_you_mean
from solo_edge.models.solov2 import SOLOv2
from solo_edge.optim import LAST_STAGE, backbone_stages

__all__ = ["frozen_parameters", "set_frozen"]


def frozen_parameters(model: SOLOv2, option: str) -> set[str]:
    """The names of the parameters that `--freeze OPTION` names.

    "none"; "backbone", "fpn", "head" or "mask_feature_branch"; "backbone:2" for the stem and the stages
    1 to 2 of 4 (strides 4 and 8), "backbone:0" for the stem alone.

    Raises:
        UsageError: no such part.
    """
    if option == "none":
        return set()
    part, colon, stage = option.partition(":")
    parts = [name for name, _ in model.named_children()]
    if part not in parts:
        raise UsageError(f"--freeze is {option!r}", fix=did_you_mean(part, [*parts, "none"]))
    names = {name for name, _ in model.named_parameters() if name.startswith(f"{part}.")}
    if not colon:
        return names
    if part != "backbone" or not stage.isdigit() or int(stage) > LAST_STAGE:
        fix = f"stages are backbone:0 (the stem) to backbone:{LAST_STAGE}"
        raise UsageError(f"--freeze is {option!r}", fix=fix)
    stages = backbone_stages(model)
    return {name for name in names if stages[name] <= int(stage)}


def set_frozen(model: SOLOv2, names: set[str], frozen: bool, *, norms_stay: bool = False) -> None:
    """Make parameters learn or not; the batch norms among them keep or move their statistics with it.

    Args:
        norms_stay: leave batch norms alone, because they are frozen for another reason.
    """
    for module_name, module in model.named_modules():
        is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if is_norm and norms_stay:
            continue
        own = [
            parameter
            for name, parameter in module.named_parameters(recurse=False)
            if f"{module_name}.{name}" in names
        ]
        for parameter in own:
            parameter.requires_grad_(not frozen)
        if own and is_norm:
            module.train(not frozen)

"""ImageNet weights for a backbone (`--init`), under timm's or torchvision's key names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from solo_edge.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor

    from solo_edge.models.backbone import Backbone

__all__ = ["load_backbone_weights"]


def load_backbone_weights(backbone: Backbone, tensors: Mapping[str, Tensor], where: str) -> int:
    """Copy ImageNet weights into `backbone`; returns how many tensors were taken.

    Raises:
        ArtifactError: a tensor of the backbone is missing or has another shape; the backbone is unchanged.
    """
    wanted = {
        key: tensor
        for key, tensor in backbone.body.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    given = {key.removeprefix("backbone."): value for key, value in tensors.items()}
    if "features.0.0.weight" in given:
        given = _mobilenet_v2(given)
    chosen = {key: given[key] for key in wanted if key in given}
    problems = [f"{key} is missing" for key in wanted if key not in given]
    problems += [
        f"{key} has shape {tuple(tensor.shape)}, not {tuple(wanted[key].shape)}"
        for key, tensor in chosen.items()
        if tensor.shape != wanted[key].shape
    ]
    if problems:
        raise ArtifactError(
            f"weights do not fit the backbone: {problems[0]} ({len(problems)} such keys)",
            where=where,
            fix="give ImageNet weights of the preset's backbone, under timm's or torchvision's names",
        )
    backbone.body.load_state_dict(chosen, strict=False)
    return len(chosen)


def _mobilenet_v2(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's MobileNetV2 names -> timm's: `features.4.conv.1.0` is `blocks.2.0.conv_dw`, and so on."""
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
    for key, tensor in tensors.items():
        parts = key.split(".")
        if parts[0] != "features":
            continue
        index, name = int(parts[1]), parts[-1]
        if index == 0:
            renamed[f"{'conv_stem' if parts[2] == '0' else 'bn1'}.{name}"] = tensor
        elif index <= len(stages):
            stage, block = stages[index - 1]
            place = (first if index == 1 else later)[".".join(parts[3:-1])]
            renamed[f"blocks.{stage}.{block}.{place}.{name}"] = tensor
    return renamed

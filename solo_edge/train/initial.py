"""The weights that a run starts with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from solo_edge.checkpoint import read_tensors
from solo_edge.errors import ArtifactError, UsageError
from solo_edge.importers.backbones import load_backbone_weights
from solo_edge.models.solov2 import SOLOv2

__all__ = ["take_over"]

# Weights fit whatever these are, and mean something else.
ARITHMETIC = ("pixel_mean", "pixel_std", "stride_in_1x1")


def take_over(model: SOLOv2, path: Path) -> tuple[int, int]:
    """Fill `model` with backbone weights, or with whatever fits of a checkpoint of ours.

    Returns:
        The number of tensors that were taken, and that there are.

    Raises:
        UsageError: the checkpoint's network normalises its input, or strides, in another way.
        ArtifactError: it is damaged, or for another backbone.
    """
    tensors, metadata = read_tensors(path)
    if "solo_edge" not in metadata:
        taken = load_backbone_weights(model.backbone, tensors, str(path))
        return taken, taken
    _require_same_arithmetic(model, metadata["solo_edge"], path)
    own = model.state_dict()
    fitting = {k: v for k, v in tensors.items() if k in own and own[k].shape == v.shape}
    model.load_state_dict(fitting, strict=False)
    return len(fitting), len(own)


def _require_same_arithmetic(model: SOLOv2, header: str, path: Path) -> None:
    try:
        config: dict[str, Any] = json.loads(header)["config"]
        for name in ARITHMETIC:
            here = getattr(model.config, name)
            there = config.get(name, False)  # `stride_in_1x1` came later
            if isinstance(there, list):
                there = tuple(there)
            if there != here:
                value = ",".join(map(str, there)) if isinstance(there, tuple) else there
                what = f"its {name} is {there}, that of the model {here}"
                raise UsageError(what, where=path, fix=f"add --set {name}={value}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError("damaged header", where=path, fix="train again") from error

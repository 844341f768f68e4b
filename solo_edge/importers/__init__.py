"""Weights from elsewhere, renamed to our modules. A layout is recognised by its keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from solo_edge.importers.convert import Choices, Imported, import_model

if TYPE_CHECKING:
    from torch import Tensor

    from solo_edge.config import ModelConfig

__all__ = ["Choices", "Imported", "import_model", "import_weights"]


def import_weights(
    tensors: Mapping[str, Tensor], where: str
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Recognise a foreign SOLOv2 checkpoint; give its configuration and its weights under our names.

    Raises:
        ArtifactError: the keys belong to no layout that we know, or some are missing or left over.
    """
    imported = import_model(tensors, where)
    return imported.config, imported.weights

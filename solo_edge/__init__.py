"""SOLOv2 instance segmentation from your own images to real-time video on the edge.

    model  = solo_edge.load_model(path)                  # a checkpoint of ours, or the authors'
    found  = solo_edge.postprocess(model(images), image_sizes, original_sizes)
    engine = solo_edge.load_engine("name.engine")        # needs no torch
    found  = engine(image)                               # [H, W, 3] uint8 RGB -> Instances

Importing the package loads neither torch nor OpenCV; what needs them imports them when called.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from solo_edge.errors import SoloEdgeError
from solo_edge.instances import Instances
from solo_edge.postprocess import postprocess

if TYPE_CHECKING:
    from solo_edge.models.solov2 import SOLOv2
    from solo_edge.runtime.engine import Engine

__version__ = "0.1.0"
__all__ = [
    "Instances",
    "SoloEdgeError",
    "__version__",
    "load_engine",
    "load_model",
    "postprocess",
    "read_image",
]


def load_model(path: str | Path) -> SOLOv2:
    """The PyTorch model in a checkpoint, in evaluation mode.

    Args:
        path: a `.safetensors` checkpoint of ours, a training run's folder, or a foreign `.safetensors`
            file whose layout is recognised by its keys (the authors' WXinlong/SOLO names).

    Raises:
        UsageError: nothing there. ArtifactError: damaged, or of no layout that we know.
    """
    from solo_edge.checkpoint import load_checkpoint

    return load_checkpoint(Path(path)).model


def load_engine(path: str | Path, **options: Any) -> Engine:
    """The engine in a folder made by `solo-edge build-engine`; see `solo_edge.runtime.engine.load_engine`."""
    from solo_edge.runtime.engine import load_engine as load

    return load(Path(path), **options)


def read_image(path: str | Path) -> Any:
    """An image file as [H, W, 3] uint8 RGB; see `solo_edge.images.read_image`."""
    from solo_edge.images import read_image as read

    return read(Path(path))

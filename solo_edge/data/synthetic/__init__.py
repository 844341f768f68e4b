"""Rendered table scenes with exact masks: training data, demonstration pictures and a test source."""

from solo_edge.data.synthetic.dataset import GENERATOR_VERSION, make_dataset
from solo_edge.data.synthetic.objects import CLASS_NAMES
from solo_edge.data.synthetic.scene import Scene, render_scene
from solo_edge.data.synthetic.video import SceneAnimation, render_video

__all__ = [
    "CLASS_NAMES",
    "GENERATOR_VERSION",
    "Scene",
    "SceneAnimation",
    "make_dataset",
    "render_scene",
    "render_video",
]

"""SOLOv2's post-processing operations: one public function each, several backends behind it.

`reference` (plain torch) is the definition, `host` (NumPy on bit-packed masks) needs no torch. The
functions here check their arguments once, choose the backend and return the kind of array they were
given. Importing this package imports neither torch nor triton.
"""

if __name__ != "solo_edge.kernels":
    raise ImportError("the folder kernels/ is the package solo_edge.kernels")

from solo_edge.kernels.backend import available_backends
from solo_edge.kernels.candidates import points_nms, select_candidates
from solo_edge.kernels.dynamic_conv import dynamic_conv, dynamic_conv_pack
from solo_edge.kernels.matrix_nms import (
    mask_iou,
    mask_iou_packed,
    matrix_nms,
    matrix_nms_packed,
)
from solo_edge.kernels.overlay import draw_overlay
from solo_edge.kernels.postprocess import postprocess
from solo_edge.kernels.preprocess import preprocess
from solo_edge.kernels.render import render_masks
from solo_edge.kernels.results import Candidates, InstanceSlots, PackedMasks

__all__ = [
    "Candidates",
    "InstanceSlots",
    "PackedMasks",
    "available_backends",
    "draw_overlay",
    "dynamic_conv",
    "dynamic_conv_pack",
    "mask_iou",
    "mask_iou_packed",
    "matrix_nms",
    "matrix_nms_packed",
    "points_nms",
    "postprocess",
    "preprocess",
    "render_masks",
    "select_candidates",
]

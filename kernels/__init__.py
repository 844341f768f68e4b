"""SOLOv2's post-processing operations: one public function each, several backends behind it.

`reference` (plain torch) is the definition, `host` (NumPy on bit-packed masks) needs no torch. The
functions here check their arguments once, choose the backend and return the kind of array they were
given. Importing this package imports neither torch nor triton.
"""

if __name__ != "solo_edge.kernels":
    raise ImportError("the folder kernels/ is the package solo_edge.kernels")

from solo_edge.kernels.backend import available_backends
from solo_edge.kernels.candidates import Candidates, points_nms, select_candidates
from solo_edge.kernels.dynamic_conv import dynamic_conv
from solo_edge.kernels.matrix_nms import mask_iou, matrix_nms

__all__ = [
    "Candidates",
    "available_backends",
    "dynamic_conv",
    "mask_iou",
    "matrix_nms",
    "points_nms",
    "select_candidates",
]

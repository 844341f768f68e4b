"""Key names of mmdetection 2 and 3 (`mmdet/models/dense_heads/solov2_head.py`)."""

from __future__ import annotations

from solo_edge.importers.layout import Layout, constant
from solo_edge.importers.official import AVERAGES, BACKBONE_AND_NECK

__all__ = ["MMDETECTION"]

MMDETECTION = Layout(
    name="mmdetection",
    title="mmdetection 2 and 3",
    mark=r"mask_head\.(cls_convs|kernel_convs|conv_cls|conv_kernel|mask_feature_head)\.",
    renames=constant(
        *BACKBONE_AND_NECK,
        (r"mask_head\.cls_convs\.(\d)\.(.+)", r"head.category_convs.\1.\2"),
        (r"mask_head\.kernel_convs\.(\d)\.(.+)", r"head.kernel_convs.\1.\2"),
        (r"mask_head\.conv_cls\.(\w+)", r"head.category_out.\1"),
        (r"mask_head\.conv_kernel\.(\w+)", r"head.kernel_out.\1"),
        (
            r"mask_head\.mask_feature_head\.convs_all_levels\.(\d)\.conv(\d)\.(.+)",
            r"mask_feature_branch.levels.\1.\2.\3",
        ),
        (r"mask_head\.mask_feature_head\.conv_pred\.(.+)", r"mask_feature_branch.out.\1"),
    ),
    ignored=AVERAGES,
)

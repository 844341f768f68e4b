"""Key names of AdelaiDet (`adet/modeling/solov2/solov2.py`), whose backbone and FPN are detectron2's.

Its models start from MSRA's ResNets, which came from Caffe: images are BGR, only the mean is
subtracted, and bottlenecks halve in their first 1x1 convolution (detectron2's defaults of
`INPUT.FORMAT`, `MODEL.PIXEL_MEAN`, `MODEL.PIXEL_STD` and `MODEL.RESNETS.STRIDE_IN_1X1`).
"""

from __future__ import annotations

import re
from collections.abc import Callable

from solo_edge.importers.layout import Layout, constant

__all__ = ["ADELAIDET"]

BLOCK = r"backbone\.bottom_up\.res([2-5])\.(\d+)"
PARTS = ("conv", "gn", "relu")  # a tower is one flat sequence of them


def _residual(rest: str) -> Callable[[re.Match[str]], str]:
    """The name of something in a residual block. Detectron2 counts the stem as the first stage."""
    return lambda found: f"backbone.body.layer{int(found[1]) - 1}.{found[2]}.{found.expand(rest)}"


def _pyramid(ours: str) -> Callable[[re.Match[str]], str]:
    return lambda found: f"fpn.{ours}.{int(found[1]) - 2}.{found[2]}"


def _tower(ours: str) -> Callable[[re.Match[str]], str]:
    def name(found: re.Match[str]) -> str:
        convolution, part = divmod(int(found[1]), len(PARTS))
        return f"head.{ours}.{convolution}.{PARTS[part]}.{found[2]}"

    return name


def _mask_part(found: re.Match[str]) -> str:
    return f"mask_feature_branch.levels.{found[1]}.{found[2]}.{PARTS[int(found[3])]}.{found[4]}"


ADELAIDET = Layout(
    name="adelaidet",
    title="AdelaiDet",
    mark=r"ins_head\.(cate|kernel)_|backbone\.bottom_up\.|backbone\.fpn_(lateral|output)",
    renames=constant(
        (r"backbone\.bottom_up\.stem\.conv1\.norm\.(\w+)", r"backbone.body.bn1.\1"),
        (r"backbone\.bottom_up\.stem\.conv1\.(\w+)", r"backbone.body.conv1.\1"),
        (BLOCK + r"\.conv(\d)\.norm\.(\w+)", _residual(r"bn\3.\4")),
        (BLOCK + r"\.conv(\d)\.(\w+)", _residual(r"conv\3.\4")),
        (BLOCK + r"\.conv2_offset\.(\w+)", _residual(r"conv2.conv_offset.\3")),
        (BLOCK + r"\.shortcut\.norm\.(\w+)", _residual(r"downsample.1.\3")),
        (BLOCK + r"\.shortcut\.(\w+)", _residual(r"downsample.0.\3")),
        (r"backbone\.fpn_lateral([2-5])\.(\w+)", _pyramid("lateral_convs")),
        (r"backbone\.fpn_output([2-5])\.(\w+)", _pyramid("output_convs")),
        (r"ins_head\.cate_tower\.(\d+)\.(\w+)", _tower("category_convs")),
        (r"ins_head\.kernel_tower\.(\d+)\.(\w+)", _tower("kernel_convs")),
        (r"ins_head\.cate_pred\.(\w+)", r"head.category_out.\1"),
        (r"ins_head\.kernel_pred\.(\w+)", r"head.kernel_out.\1"),
        (r"mask_head\.convs_all_levels\.(\d)\.conv(\d)\.([01])\.(\w+)", _mask_part),
        (r"mask_head\.conv_pred\.0\.(\w+)", r"mask_feature_branch.out.conv.\1"),
        (r"mask_head\.conv_pred\.1\.(\w+)", r"mask_feature_branch.out.gn.\1"),
    ),
    fields={"stride_in_1x1": True, "pixel_std": (1.0, 1.0, 1.0)},
    channels="bgr",
)

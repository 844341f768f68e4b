"""Key names of PaddleDetection 2 (`ppdet/modeling/heads/solov2_head.py`, `backbones/resnet.py`).

Its ResNet-vd is timm's ResNet-D. Its ResNet-18 and 34 have a projection in their very first block, which
torchvision's and timm's have not; they are refused for the weights that are left over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence

from solo_edge.importers.layout import Layout, Rename

__all__ = ["PADDLE"]

BLOCK = r"backbone\.res([2-5])\.res\d([a-z])(\d*)"
TOWER = r"solov2_head\.bbox_head\."
MASK = r"mask_head\.conv_pre_feat(\d)\.mask_feat_head\.convs_all_levels\.\d\.conv(\d)"
MASK_OUT = r"mask_head\.mask_feat_head\.conv_pred\.0"
CONV = r"\.conv\.(?:conv_dcn\.)?(weight|bias)"  # a deformable convolution's own weights lie deeper
OFFSET = r"\.(?:conv\.)?conv_offset\.(\w+)"
NORM = r"\.norm\.(\w+)"


def _renames(keys: Collection[str]) -> Sequence[Rename]:
    # In a ResNet-D a pooling comes before the convolution of the shortcuts, in all stages but the first
    # under a name of its own. timm counts it in every stage.
    pooled = any(".short.conv.conv." in key for key in keys)
    conv, norm = (1, 2) if pooled else (0, 1)
    return (
        (r"backbone\.conv1\.(?:res_)?conv1\.conv\.(\w+)", r"backbone.body.conv1.\1"),
        (rf"backbone\.conv1\.(?:res_)?conv1{NORM}", _named(r"backbone.body.bn1.\1")),
        (r"backbone\.conv1\.conv1_1\.conv\.(\w+)", r"backbone.body.conv1.0.\1"),
        (rf"backbone\.conv1\.conv1_1{NORM}", _named(r"backbone.body.conv1.1.\1")),
        (r"backbone\.conv1\.conv1_2\.conv\.(\w+)", r"backbone.body.conv1.3.\1"),
        (rf"backbone\.conv1\.conv1_2{NORM}", _named(r"backbone.body.conv1.4.\1")),
        (r"backbone\.conv1\.conv1_3\.conv\.(\w+)", r"backbone.body.conv1.6.\1"),
        (rf"backbone\.conv1\.conv1_3{NORM}", _named(r"backbone.body.bn1.\1")),
        *(
            rename
            for number, letter in enumerate("abc", start=1)
            for rename in (
                (rf"{BLOCK}\.branch2{letter}{CONV}", _residual(rf"conv{number}.\4")),
                (rf"{BLOCK}\.branch2{letter}{OFFSET}", _residual(rf"conv{number}.conv_offset.\4")),
                (rf"{BLOCK}\.branch2{letter}{NORM}", _residual(rf"bn{number}.\4")),
            )
        ),
        (rf"{BLOCK}\.short(?:\.conv)?{CONV}", _residual(rf"downsample.{conv}.\4")),
        (rf"{BLOCK}\.short(?:\.conv)?{NORM}", _residual(rf"downsample.{norm}.\4")),
        (r"neck\.fpn_inner_res([2-5])_sum(?:_lateral)?\.(\w+)", _pyramid("lateral_convs")),
        (r"neck\.fpn_res([2-5])_sum\.(\w+)", _pyramid("output_convs")),
        *_branch(TOWER + r"cate_convs\.(\d)", r"head.category_convs.\1", r"\2"),
        *_branch(TOWER + r"kernel_convs\.(\d)", r"head.kernel_convs.\1", r"\2"),
        (TOWER + r"solo_cate\.(\w+)", r"head.category_out.\1"),
        (TOWER + r"solo_kernel\.(\w+)", r"head.kernel_out.\1"),
        *_branch(MASK, r"mask_feature_branch.levels.\1.\2", r"\3"),
        *_branch(MASK_OUT, "mask_feature_branch.out", r"\1"),
    )


def _branch(theirs: str, ours: str, last: str) -> Sequence[Rename]:
    """A convolution with its norm outside the backbone; `last` refers to the last word of the key."""
    return (
        (theirs + CONV, f"{ours}.conv.{last}"),
        (theirs + OFFSET, f"{ours}.conv.conv_offset.{last}"),
        (theirs + NORM, _named(f"{ours}.gn.{last}")),
    )


def _named(name: str) -> Callable[[re.Match[str]], str]:
    """The name of something in a norm, by torch's words for what it has measured."""
    return lambda found: (
        found.expand(name).replace("._mean", ".running_mean").replace("._variance", ".running_var")
    )


def _residual(rest: str) -> Callable[[re.Match[str]], str]:
    """The name of something in a residual block: res4c is block 2, and so is res4b2 in long stages."""

    def name(found: re.Match[str]) -> str:
        block = int(found[3]) if found[3] else ord(found[2]) - ord("a")
        return f"backbone.body.layer{int(found[1]) - 1}.{block}.{_named(rest)(found)}"

    return name


def _pyramid(ours: str) -> Callable[[re.Match[str]], str]:
    return lambda found: f"fpn.{ours}.{int(found[1]) - 2}.{found[2]}"


PADDLE = Layout(
    name="paddle",
    title="PaddleDetection",
    mark=r"solov2_head\.|neck\.fpn_(inner_)?res[2-5]_sum|mask_head\.(conv_pre_feat|mask_feat_head)",
    renames=_renames,
)

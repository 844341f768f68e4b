"""Key names of the authors' code (github.com/WXinlong/SOLO), which stands on mmdetection 1."""

from __future__ import annotations

from solo_edge.importers.layout import Layout, constant

__all__ = ["AVERAGES", "BACKBONE_AND_NECK", "OFFICIAL"]

# What mmdetection 1, 2 and 3 have in common. Their backbones keep torchvision's names, which timm's
# ResNets share; `stem` is the three convolutions of a ResNet-C or -D.
BACKBONE_AND_NECK = (
    # Files from before mmdetection 1.0 have the offsets of a deformable convolution beside it.
    (r"backbone\.(layer[1-4]\.\d+)\.conv2_offset\.(\w+)", r"backbone.body.\1.conv2.conv_offset.\2"),
    (r"backbone\.((?:conv1|bn1|layer[1-4])\..+)", r"backbone.body.\1"),
    (r"backbone\.stem\.7\.(\w+)", r"backbone.body.bn1.\1"),
    (r"backbone\.stem\.(\d)\.(\w+)", r"backbone.body.conv1.\1.\2"),
    (r"neck\.lateral_convs\.(\d)\.conv\.(\w+)", r"fpn.lateral_convs.\1.\2"),
    (r"neck\.fpn_convs\.(\d)\.conv\.(\w+)", r"fpn.output_convs.\1.\2"),
)
# mmcv's EMA hook keeps a second set of weights in buffers and swaps the two before it saves: the file's
# ordinary names hold the averaged weights, these the raw ones.
AVERAGES = ((r"ema_\w+", "raw weights beside the averaged ones"),)

OFFICIAL = Layout(
    name="official",
    title="the authors' (WXinlong/SOLO)",
    mark=r"bbox_head\.(cate_convs|kernel_convs|solo_cate|solo_kernel)\.|mask_feat_head\.",
    renames=constant(
        *BACKBONE_AND_NECK,
        (
            r"bbox_head\.cate_convs\.(\d)\.conv_offset\.(\w+)",
            r"head.category_convs.\1.conv.conv_offset.\2",
        ),
        (
            r"bbox_head\.kernel_convs\.(\d)\.conv_offset\.(\w+)",
            r"head.kernel_convs.\1.conv.conv_offset.\2",
        ),
        (r"bbox_head\.cate_convs\.(\d)\.(.+)", r"head.category_convs.\1.\2"),
        (r"bbox_head\.kernel_convs\.(\d)\.(.+)", r"head.kernel_convs.\1.\2"),
        (r"bbox_head\.solo_cate\.(\w+)", r"head.category_out.\1"),
        (r"bbox_head\.solo_kernel\.(\w+)", r"head.kernel_out.\1"),
        (
            r"mask_feat_head\.convs_all_levels\.(\d)\.conv(\d)\.(.+)",
            r"mask_feature_branch.levels.\1.\2.\3",
        ),
        (r"mask_feat_head\.conv_pred\.0\.(.+)", r"mask_feature_branch.out.\1"),
    ),
    ignored=AVERAGES,
)

"""Configurations: frozen dataclasses, named presets, and errors that name the nearest right word.

The `solov2-light-*` and `solov2-r50-800` presets are the authors' configurations
(github.com/WXinlong/SOLO, `configs/solov2/solov2_light_448_r*_fpn_8gpu_3x.py`, `solov2_r50_fpn_8gpu_3x.py`).
"""

from __future__ import annotations

import dataclasses
import re
import typing
from dataclasses import dataclass
from typing import Any, Literal

from solo_edge.errors import UsageError, did_you_mean

__all__ = [
    "AUGMENTATIONS",
    "PRESETS",
    "ModelConfig",
    "PostprocessConfig",
    "TrainConfig",
    "from_dict",
    "preset",
]

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class ModelConfig:
    """Everything that decides the network's shape and the input it expects. Sizes are (height, width)."""

    name: str = "custom"
    backbone: str = (
        "resnet18"  # a timm model name; its last four stages must have strides 4, 8, 16, 32
    )
    num_classes: int = 80
    input_size: tuple[int, int] = (448, 768)  # fixed size of the deployed graph, multiples of 32
    pixel_mean: tuple[float, float, float] = IMAGENET_MEAN  # RGB, 0..255
    pixel_std: tuple[float, float, float] = IMAGENET_STD
    fpn_channels: int = 256
    head_channels: int = 256  # width of category_branch and kernel_branch
    head_depth: int = 2  # stacked convolutions in each of the two
    kernel_length: int = (
        128  # E: length of a predicted mask kernel (1x1 convolution over E channels)
    )
    mask_channels: int = 128  # width inside mask_feature_branch
    levels: tuple[int, ...] = (2, 3, 4, 5, 6)  # FPN level that feeds each grid
    grid_sizes: tuple[int, ...] = (40, 36, 24, 16, 12)  # S of each grid
    scale_ranges: tuple[tuple[float, float], ...] = (
        (1, 56),
        (28, 112),
        (56, 224),
        (112, 448),
        (224, 896),
    )  # sqrt(box area) that each grid learns, both ends inclusive
    center_scale: float = 0.2  # the paper's epsilon: size of the centre region relative to the box
    norm: Literal["group", "batch"] = "group"
    norm_groups: int = 32
    conv: Literal["standard", "separable", "deformable"] = "standard"
    # "deformable": DCNv2 in the last convolution of category_branch and kernel_branch
    stride_in_1x1: bool = False  # bottlenecks halve in their first 1x1 convolution (Caffe)

    def __post_init__(self) -> None:
        def require(ok: bool, name: str, rule: str) -> None:
            if not ok:
                value = getattr(self, name)
                raise UsageError(f"{name} is {value!r}", where=f"model {self.name}", fix=rule)

        positive = "num_classes fpn_channels head_channels head_depth kernel_length mask_channels"
        for name in positive.split():
            require(getattr(self, name) > 0, name, "it must be at least 1")
        height, width = self.input_size
        require(
            height > 0 and width > 0 and height % 32 == 0 and width % 32 == 0,
            "input_size",
            "both sides must be positive multiples of 32",
        )
        require(len(self.levels) > 0, "levels", "give at least one FPN level")
        require(
            all(2 <= level <= 6 for level in self.levels)
            and list(self.levels) == sorted(self.levels),
            "levels",
            "levels must be ascending numbers from 2 to 6",
        )
        for name in ("grid_sizes", "scale_ranges"):
            same = len(getattr(self, name)) == len(self.levels)
            require(same, name, f"give one entry for each of the {len(self.levels)} levels")
        require(all(size > 0 for size in self.grid_sizes), "grid_sizes", "grids must be positive")
        require(
            all(low <= high for low, high in self.scale_ranges),
            "scale_ranges",
            "low must be <= high",
        )
        require(all(s > 0 for s in self.pixel_std), "pixel_std", "it must be positive")
        for name in ("norm", "conv"):
            allowed = typing.get_args(typing.get_type_hints(type(self))[name])
            value = getattr(self, name)
            require(value in allowed, name, did_you_mean(str(value), allowed))
        if self.norm == "group":
            for name in ("head_channels", "mask_channels", "kernel_length"):
                divides = getattr(self, name) % self.norm_groups == 0
                require(divides, name, f"it must be a multiple of norm_groups ({self.norm_groups})")

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of the feature map that each grid reads: P2 is halved to 8, P6 enlarged to 32."""
        return tuple(min(max(2**level, 8), 32) for level in self.levels)

    @property
    def num_cells(self) -> int:
        """T: the number of grid cells of all levels together."""
        return sum(size * size for size in self.grid_sizes)


@dataclass(frozen=True)
class PostprocessConfig:
    """Thresholds of SOLOv2's inference (authors' `test_cfg`), with a fixed number of candidates."""

    score_threshold: float = 0.1  # a (cell, class) pair below it is no candidate
    mask_threshold: float = 0.5
    update_threshold: float = 0.05  # lowest score kept after Matrix NMS
    max_candidates: int = 500  # K: best (cell, class) pairs that get a mask
    max_instances: int = 100
    decay: Literal["gaussian", "linear"] = "gaussian"
    sigma: float = 2.0  # multiplied, as in the authors' code; the paper divides by 0.5

    def __post_init__(self) -> None:
        def require(ok: bool, name: str, rule: str) -> None:
            if not ok:
                raise UsageError(f"{name} is {getattr(self, name)!r}", fix=rule)

        for name in ("score_threshold", "mask_threshold", "update_threshold"):
            require(0.0 <= getattr(self, name) < 1.0, name, "it must be in [0, 1)")
        require(self.mask_threshold > 0.0, "mask_threshold", "it must be in (0, 1)")
        require(self.max_candidates > 0, "max_candidates", "it must be at least 1")
        require(self.max_instances > 0, "max_instances", "it must be at least 1")
        require(self.decay in ("gaussian", "linear"), "decay", "use 'gaussian' or 'linear'")
        require(self.sigma > 0, "sigma", "it must be positive")


@dataclass(frozen=True)
class TrainConfig:
    """One training run. The defaults suit a few hundred to a few thousand images of one's own."""

    epochs: int = 36
    batch_size: int = 8  # of all processes together
    accumulate: int = 1  # batches whose gradients are added before one optimizer step
    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    momentum: float = 0.9  # SGD
    backbone_lr_scale: float = 1.0  # learning rate of the backbone relative to the rest
    layer_decay: float = 1.0  # and of each of its stages relative to the next one
    freeze: str = (
        "none"  # parts that are not trained: "backbone", "backbone:2" (stem, stages 1 and 2)
    )
    freeze_epochs: int = 0  # for so many epochs; 0 for the whole run
    batch_norm: Literal["batch", "sync", "frozen"] = "batch"  # whose statistics normalise
    schedule: Literal["cosine", "step"] = "cosine"
    milestones: tuple[float, ...] = (
        0.75,
        0.92,
    )  # step schedule: fractions of the run, factor 0.1 each
    warmup_steps: int = 500
    clip_norm: float = 35.0
    ema_decay: float = 0.999  # 0 switches the averaged copy off
    amp: bool = True  # float16 on a GPU, bfloat16 on a CPU that has it; --no-amp for float32
    dice_weight: float = 3.0
    focal_weight: float = 1.0
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    category_loss: Literal["focal", "quality"] = "focal"
    lovasz_weight: float = 0.0
    semantic_weight: float = 0.0
    distill_category: float = 1.0  # the three weights count with a teacher only
    distill_features: float = 1.0
    distill_masks: float = 3.0
    flip: float = 0.5  # probability
    jitter: tuple[float, float] = (0.75, 1.33)  # scale relative to the deployed size
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.02
    copy_paste: float = 0.0  # probability
    mosaic: float = 0.0  # probability
    close_mosaic: int = 10  # last epochs without mosaics
    repeat_threshold: float = 0.0  # share of the images below which a class counts as rare
    validate_every: int = 1  # epochs
    save_every: str = (
        "10m"  # steps ("500") or minutes ("10m") between states within an epoch, 0: never
    )
    compile: bool = False
    workers: int = 2
    loader_timeout: int = 60  # seconds that a worker may take for one sample
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        def require(ok: bool, name: str, rule: str) -> None:
            if not ok:
                value = getattr(self, name)
                raise UsageError(f"--{name.replace('_', '-')} is {value!r}", fix=rule)

        for name in ("epochs", "batch_size", "accumulate", "validate_every"):
            require(getattr(self, name) >= 1, name, "it must be at least 1")
        not_negative = "warmup_steps workers weight_decay brightness hue freeze_epochs close_mosaic"
        weights = "lovasz_weight semantic_weight distill_category distill_features distill_masks"
        for name in f"{not_negative} {weights}".split():
            require(getattr(self, name) >= 0, name, "it must not be negative")
        for name in ("copy_paste", "mosaic", "repeat_threshold"):
            require(0 <= getattr(self, name) <= 1, name, "it must be from 0 to 1")
        closes = self.mosaic == 0 or self.close_mosaic < self.epochs
        require(closes, "close_mosaic", f"it leaves none of {self.epochs} epochs with mosaics")
        require(0 < self.layer_decay <= 1, "layer_decay", "it must be in (0, 1]")
        require(self.loader_timeout >= 1, "loader_timeout", "it must be at least 1")
        steps_or_minutes = re.fullmatch(r"\d+|\d+(\.\d+)?m", self.save_every)
        require(bool(steps_or_minutes), "save_every", "give steps (500), minutes (10m) or 0")
        require(self.learning_rate > 0, "learning_rate", "it must be positive")
        require(self.clip_norm > 0, "clip_norm", "it must be positive")
        require(0 <= self.ema_decay < 1, "ema_decay", "it must be in [0, 1)")
        hints = typing.get_type_hints(type(self))
        for name in ("optimizer", "schedule", "batch_norm", "category_loss"):
            allowed = typing.get_args(hints[name])
            require(getattr(self, name) in allowed, name, f"use {' or '.join(map(repr, allowed))}")
        low, high = self.jitter
        require(0 < low <= high, "jitter", "give two positive numbers, low <= high")


AUGMENTATIONS: dict[str, dict[str, Any]] = {
    # Large-scale jitter and its use with copy-paste: arXiv:2012.07177.
    "default": {},
    "large-scale": {"jitter": (0.1, 2.0)},
    "copy-paste": {"jitter": (0.1, 2.0), "copy_paste": 0.5},
    "mosaic": {"jitter": (0.5, 1.5), "mosaic": 0.5},
}

_LIGHT = ModelConfig()
_LIGHT_MOBILE = dataclasses.replace(
    _LIGHT,
    name="solov2-light-mbv2-448",
    backbone="mobilenetv2_100",
    # The published MobileNetV2 weights (and `--init` files made from them) expect (x - 128) / 128.
    pixel_mean=(128.0, 128.0, 128.0),
    pixel_std=(128.0, 128.0, 128.0),
    fpn_channels=128,
    head_channels=128,
    kernel_length=128,
    mask_channels=96,
)

PRESETS: dict[str, ModelConfig] = {
    config.name: config
    for config in (
        dataclasses.replace(_LIGHT, name="solov2-light-r18-448", backbone="resnet18"),
        dataclasses.replace(_LIGHT, name="solov2-light-r34-448", backbone="resnet34"),
        dataclasses.replace(_LIGHT, name="solov2-light-r50-448", backbone="resnet50"),
        dataclasses.replace(
            _LIGHT,
            name="solov2-r50-800",
            backbone="resnet50",
            input_size=(800, 1344),  # the authors' (1333, 800) padded to multiples of 32
            head_channels=512,
            head_depth=4,
            kernel_length=256,
            scale_ranges=((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048)),
        ),
        _LIGHT_MOBILE,
        ModelConfig(
            name="solov2-nano-256",
            backbone="mobilenetv4_conv_small_050",
            input_size=(256, 256),
            fpn_channels=64,
            head_channels=64,
            kernel_length=64,
            mask_channels=32,
            grid_sizes=(24, 20, 16, 12, 8),
            scale_ranges=((1, 32), (16, 64), (32, 128), (64, 256), (128, 512)),
            norm_groups=8,
        ),
    )
}


def preset(name: str, **overrides: Any) -> ModelConfig:
    """The preset called `name`, with fields replaced.

    Raises:
        UsageError: no such preset or field; the message names the nearest one.
    """
    if name not in PRESETS:
        raise UsageError(f"unknown model preset {name!r}", fix=did_you_mean(name, PRESETS))
    return from_dict(ModelConfig, {**dataclasses.asdict(PRESETS[name]), **overrides})


Config = typing.TypeVar("Config", ModelConfig, PostprocessConfig, TrainConfig)


def from_dict(kind: type[Config], values: dict[str, Any]) -> Config:
    """Build a configuration from plain values (JSON lists become tuples); unknown names are errors."""
    known = {f.name for f in dataclasses.fields(kind)}
    for name in values:
        if name not in known:
            fix = did_you_mean(name, known)
            raise UsageError(f"unknown {kind.__name__} field {name!r}", fix=fix)
    return kind(**{name: _frozen(value) for name, value in values.items()})


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, (list, tuple)) else value

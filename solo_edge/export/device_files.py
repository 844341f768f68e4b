"""The compiled kernels in an engine folder: with them a frame stays on the device up to its instances."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from solo_edge.config import ModelConfig, PostprocessConfig
from solo_edge.errors import UsageError
from solo_edge.preprocess import Preprocess

if TYPE_CHECKING:
    from solo_edge.kernels.aot_targets import Target
    from solo_edge.kernels.plan import Plan, Sizes

__all__ = ["device_plans", "write_kernels"]


def write_kernels(
    folder: Path,
    model: ModelConfig,
    config: PostprocessConfig,
    target: Target,
    *,
    report: Callable[[str], None] = lambda line: None,
) -> None:
    """Write `kernels.json` and the files that it names into an engine folder that is being made.

    Needs Triton, and no GPU. The manifest lists the files like any others (`record_files`).

    Args:
        model: the network's sizes and normalisation.
        config: thresholds, and the sizes of the post-processing.
        target: the GPU; `aot_targets.target_for` and `find_target` know them.
        report: is called with one line about each step.

    Raises:
        UsageError: more candidates or instances than the kernels sort.
        ResourceError: Triton is not installed, or cannot compile a kernel.
    """
    from solo_edge.kernels.aot_folder import write_kernels as write

    plans, sizes = device_plans(model, config)
    write(folder, plans, sizes, target, report=report)


def device_plans(model: ModelConfig, config: PostprocessConfig) -> tuple[dict[str, Plan], Sizes]:
    """What runs on the device before and after the network, for one frame; and the sizes.

    Raises:
        UsageError: more candidates or instances than the kernels sort.
    """
    from solo_edge.kernels.plan import MAX_SLOTS, Sizes, Thresholds, postprocess_plan
    from solo_edge.kernels.preprocess import FrameSizes, preprocess_plan
    from solo_edge.kernels.tiles import Tiles

    for name in ("max_candidates", "max_instances"):
        if getattr(config, name) > MAX_SLOTS:
            what = f"{name} is {getattr(config, name)}, the GPU kernels take {MAX_SLOTS}"
            raise UsageError(what, fix=f"lower --{name.replace('_', '-')}")
    height, width = model.input_size
    sizes = Sizes(
        1,
        model.num_classes,
        model.num_cells,
        model.kernel_length,
        height // 4,
        width // 4,
        config.max_candidates,
        config.max_instances,
    )
    thresholds = Thresholds(
        score=config.score_threshold,
        update=config.update_threshold,
        decay=config.decay,
        sigma=config.sigma,
    )
    colours = Preprocess.from_config(model)
    before = preprocess_plan(
        FrameSizes(height, width),
        Tiles(),
        pixel_mean=colours.pixel_mean,
        pixel_std=colours.pixel_std,
    )
    # Engines hand over float32, whatever they compute in.
    after = postprocess_plan(sizes, thresholds, Tiles(), dtype="float32")
    return {"preprocess": before, "postprocess": after}, sizes

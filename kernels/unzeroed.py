"""The same plan for launchers that give no zeroed memory, such as TensorRT's plugins.

Two kernels count with atomic operations on memory that was zeroed before: `collect_candidates_kernel`
its keys, `mask_overlap_kernel` the highest overlap of each mask. Here, each block writes what it
found on its own, and one more launch puts that together. It costs two launches and saves two memsets.
"""

from __future__ import annotations

import dataclasses

from solo_edge.kernels.launches import next_power_of_two
from solo_edge.kernels.plan import Buffer, Launch, Plan

__all__ = ["without_zeroed_memory"]


def without_zeroed_memory(plan: Plan) -> Plan:
    """A plan with the same inputs, outputs and results, of which every launch writes its outputs whole.

    "Whole" up to places that no later launch reads. Each buffer is written by one launch only.

    Args:
        plan: of `postprocess_plan`, without points NMS.

    Raises:
        ValueError: another launch needs zeroed memory.
    """
    buffers = dict(plan.buffers)
    launches: list[Launch] = []
    for launch in plan.launches:
        if launch.kernel == "collect_candidates_kernel" and not launch.constants["SUPPRESS"]:
            launches += _collect(launch, buffers)
        elif launch.kernel == "mask_overlap_kernel":
            launches += _overlap(launch, _decay_of(plan), buffers)
        else:
            launches.append(launch)
    used = {name for launch in launches for name in launch.arguments.values()}
    kept = {name: buffer for name, buffer in buffers.items() if name in used}
    if zeroed := [name for name, buffer in kept.items() if buffer.zeroed]:
        raise ValueError(f"there is no other way here than to zero {zeroed[0]} before")
    return dataclasses.replace(plan, buffers=kept, launches=tuple(launches))


def _collect(launch: Launch, buffers: dict[str, Buffer]) -> tuple[Launch, Launch]:
    """Keys of each block at its own place, then all of them at the beginning."""
    (blocks, batch, _), total = launch.grid, launch.arguments["total"]
    block = launch.constants["BLOCK"]
    buffers["block_keys"] = buffers["keys"]
    buffers["block_counts"] = Buffer((batch, blocks), "int32")
    buffers["key_count"] = dataclasses.replace(buffers["key_count"], zeroed=False)
    collect = dataclasses.replace(
        launch,
        kernel="collect_blocks_kernel",
        arguments={
            "category_scores": "category_scores",
            "block_keys": "block_keys",
            "block_counts": "block_counts",
            "total": total,
            "blocks": blocks,
            "score_threshold": launch.arguments["score_threshold"],
        },
        constants={"BLOCK": block},
    )
    join = dataclasses.replace(
        launch,
        kernel="join_blocks_kernel",
        arguments={
            "block_keys": "block_keys",
            "block_counts": "block_counts",
            "keys": "keys",
            "key_count": "key_count",
            "total": total,
            "blocks": blocks,
        },
        constants={"BLOCK": block, "BLOCKS": next_power_of_two(blocks)},
    )
    return collect, join


def _overlap(launch: Launch, decay: Launch, buffers: dict[str, Buffer]) -> tuple[Launch, Launch]:
    """The overlaps, then the highest of each column; those of the kernel itself go to waste."""
    highest = dataclasses.replace(buffers["highest_overlaps"], zeroed=False)
    buffers["highest_overlaps"] = buffers["unused_overlaps"] = highest
    overlap = dataclasses.replace(
        launch, arguments={**launch.arguments, "highest_overlaps": "unused_overlaps"}
    )
    kept = ("overlaps", "sorted_labels", "kept_count", "highest_overlaps")
    sizes = {name: decay.constants[name] for name in ("SLOTS", "BLOCK_I", "BLOCK_J")}
    maximum = dataclasses.replace(
        decay,
        kernel="highest_overlaps_kernel",
        arguments={name: name for name in kept},
        constants=sizes,
    )
    return overlap, maximum


def _decay_of(plan: Plan) -> Launch:
    """What reads the highest overlaps: it goes through the same tiles."""
    return next(launch for launch in plan.launches if launch.kernel == "decay_scores_kernel")

"""Tile sizes and warps of every GPU kernel: the defaults, and what was measured to be best on one GPU.

A tuned set is a JSON file in `_triton/tiles/`, named for its GPU; `scripts/bench --gpu --tune` writes
one. Whatever it does not name stays at its default.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["TILES_FOLDER", "Tile", "Tiles", "gpu_slug", "load_tiles", "tiles_from_dict"]

TILES_FOLDER = Path(__file__).parent / "_triton" / "tiles"


@dataclass(frozen=True)
class Tile:
    """How one kernel cuts its work: compile-time sizes, warps of a block, stages of its pipeline."""

    constants: Mapping[str, int | str] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 3

    def __getitem__(self, name: str) -> int:
        return int(self.constants[name])


@dataclass(frozen=True)
class Tiles:
    """The tile of each kernel. The defaults keep within 48 KB of shared memory and spill nowhere."""

    preprocess: Tile = Tile({"BLOCK_Y": 8, "BLOCK_X": 64})
    collect_candidates: Tile = Tile({"BLOCK": 1024})
    select_candidates: Tile = Tile({"BLOCK": 1024}, num_warps=8)
    gather_kernels: Tile = Tile({"BLOCK_N": 8})
    dynamic_conv_pack: Tile = Tile({"BLOCK_N": 64, "BLOCK_P": 128, "BLOCK_E": 16}, num_warps=8)
    dynamic_conv: Tile = Tile({"BLOCK_N": 32, "BLOCK_P": 128, "BLOCK_E": 16}, num_warps=8)
    reduce_masks: Tile = Tile({"BLOCK_N": 16})
    order_candidates: Tile = Tile(num_warps=8)
    mask_overlap: Tile = Tile({"BLOCK_I": 16, "BLOCK_J": 16, "BLOCK_W": 16, "METHOD": "popc"})
    decay_scores: Tile = Tile({"BLOCK_I": 16, "BLOCK_J": 32})
    scatter_scores: Tile = Tile()
    select_instances: Tile = Tile(num_warps=8)
    instance_probabilities: Tile = Tile(
        {"BLOCK_N": 16, "BLOCK_P": 128, "BLOCK_E": 32}, num_stages=2
    )
    pack_masks: Tile = Tile({"BLOCK_N": 4, "BLOCK_P": 1024})
    render_masks: Tile = Tile({"BLOCK_Y": 8, "BLOCK_X": 128})
    draw_overlay: Tile = Tile({"BLOCK_Y": 32, "BLOCK_X": 64, "LOW_Y": 8, "LOW_X": 32}, num_warps=4)


def gpu_slug(name: str) -> str:
    """The name of a GPU's files: "NVIDIA H200" -> "nvidia-h200"."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def load_tiles(gpu_name: str) -> Tiles:
    """The tuned tiles for the GPU, or the defaults if there are none.

    Raises:
        ValueError: the file has an unknown kernel or a wrong value.
    """
    path = TILES_FOLDER / f"{gpu_slug(gpu_name)}.json"
    if not path.is_file():
        return Tiles()
    return tiles_from_dict(json.loads(path.read_text("utf-8"))["tiles"])


def tiles_from_dict(values: Mapping[str, Mapping[str, Any]]) -> Tiles:
    """Tiles from `{kernel: {"constants": {...}, "num_warps": 4, "num_stages": 3}}`; the rest are defaults."""
    defaults = [field.name for field in dataclasses.fields(Tiles)]
    changed = {}
    for name, value in values.items():
        if name not in defaults:
            raise ValueError(f"unknown kernel {name!r} in the tiles, known: {', '.join(defaults)}")
        default: Tile = getattr(Tiles(), name)
        wrong = set(value.get("constants", {})) - set(default.constants)
        if wrong:
            raise ValueError(f"tiles of {name}: unknown size {sorted(wrong)[0]!r}")
        changed[name] = dataclasses.replace(default, **value)
    return dataclasses.replace(Tiles(), **changed)

"""Post-processing as a chain of operators, each exactly one launch: what a TensorRT plugin may be.

Nothing is described a second time here: operators, their tensors and their grids come from the plan
of the launches (`solo_edge.kernels.plan`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from solo_edge.config import ModelConfig, PostprocessConfig
from solo_edge.errors import UsageError
from solo_edge.kernels.plan import (
    MAX_SLOTS,
    Buffer,
    Launch,
    Plan,
    Sizes,
    Thresholds,
    postprocess_plan,
)
from solo_edge.kernels.tiles import Tiles
from solo_edge.kernels.unzeroed import without_zeroed_memory

__all__ = ["Chain", "Operator", "PluginSpec", "make_chain", "plugin_spec", "tensor_of"]

# TensorRT has no unsigned integers, and int64 is not for every plugin. Bits are all that matters:
# type -> its type there, and how many of them it takes.
TENSOR_TYPES = {
    "float32": ("float32", 1),
    "float16": ("float16", 1),
    "int32": ("int32", 1),
    "uint32": ("int32", 1),
    "int64": ("int32", 2),
}


@dataclass(frozen=True)
class PluginSpec:
    """All that the operators of one post-processing depend on, but for the GPU."""

    sizes: Sizes
    thresholds: Thresholds
    dtype: str  # of mask kernels and mask features: "float32" or "float16"

    def to_text(self) -> str:
        """One line of JSON, always the same for the same values."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))

    @property
    def digest(self) -> str:
        """Eight characters that no other values have."""
        return hashlib.sha256(self.to_text().encode()).hexdigest()[:8]

    @classmethod
    def from_text(cls, text: str) -> PluginSpec:
        """What `to_text` wrote."""
        values = json.loads(text)
        sizes, thresholds = Sizes(**values["sizes"]), Thresholds(**values["thresholds"])
        return cls(sizes, thresholds, values["dtype"])


@dataclass(frozen=True)
class Operator:
    """One launch. Its kernel is given the addresses of `inputs`, then of `outputs`, and nothing else."""

    name: str  # with the digest of the spec: all numbers are inside, none is an attribute
    launch: Launch  # whose numbers are compile-time constants
    inputs: tuple[str, ...]  # buffers of the plan
    outputs: tuple[str, ...]  # written whole, up to places that no other operator reads


@dataclass(frozen=True)
class Chain:
    """Operators in their order. Every buffer is an input of the plan or the output of one operator."""

    plan: Plan
    operators: Mapping[str, Operator]  # by name


def plugin_spec(
    model: ModelConfig, config: PostprocessConfig, *, dtype: str = "float32", batch: int = 1
) -> PluginSpec:
    """The post-processing of `model`'s network with the thresholds of `config`.

    Raises:
        UsageError: more candidates or instances than the kernels can sort.
    """
    for name in ("max_candidates", "max_instances"):
        if getattr(config, name) > MAX_SLOTS:
            what = f"{name} is {getattr(config, name)}, the kernels take {MAX_SLOTS}"
            raise UsageError(what, fix=f"lower --{name.replace('_', '-')}")
    height, width = model.input_size
    sizes = Sizes(
        batch=batch,
        classes=model.num_classes,
        cells=model.num_cells,
        channels=model.kernel_length,
        height=height // 4,
        width=width // 4,
        max_candidates=config.max_candidates,
        max_instances=config.max_instances,
    )
    thresholds = Thresholds(
        score=config.score_threshold,
        mask_logit=math.log(config.mask_threshold / (1.0 - config.mask_threshold)),
        update=config.update_threshold,
        decay=config.decay,
        sigma=config.sigma,
    )
    return PluginSpec(sizes, thresholds, dtype)


def make_chain(spec: PluginSpec, tiles: Tiles | None = None) -> Chain:
    """The operators of `spec`.

    Args:
        tiles: how the kernels cut their work, with consequences for the shapes between them.
    """
    plan = postprocess_plan(spec.sizes, spec.thresholds, tiles or Tiles(), dtype=spec.dtype)
    plan = without_zeroed_memory(plan)
    operators: dict[str, Operator] = {}
    written = set(plan.inputs)
    for launch in plan.launches:
        operator = _operator(launch, spec.digest, written)
        operators[operator.name] = operator
        written.update(operator.outputs)
    assert len(operators) == len(plan.launches), "a kernel is launched twice"
    return Chain(plan, operators)


def _operator(launch: Launch, digest: str, written: set[str]) -> Operator:
    """Whoever names a buffer first writes it: there is nothing in it to be read."""
    pointers = {name: value for name, value in launch.arguments.items() if isinstance(value, str)}
    numbers: dict[str, Any] = {
        name: value for name, value in launch.arguments.items() if not isinstance(value, str)
    }
    buffers = tuple(pointers.values())
    inputs = tuple(name for name in buffers if name in written)
    outputs = tuple(name for name in buffers if name not in written)
    # TensorRT passes each tensor once: inputs, then outputs.
    if buffers != (*inputs, *outputs) or len(set(buffers)) < len(buffers):
        raise ValueError(f"{launch.kernel} takes its buffers in the order {', '.join(buffers)}")
    baked = dataclasses.replace(
        launch, arguments=pointers, constants={**launch.constants, **numbers}
    )
    name = f"{launch.kernel.removesuffix('_kernel')}_{digest}"
    return Operator(name, baked, inputs, outputs)


def tensor_of(buffer: Buffer) -> Buffer:
    """The tensor whose memory `buffer` is in TensorRT."""
    dtype, count = TENSOR_TYPES[buffer.dtype]
    return Buffer((*buffer.shape[:-1], buffer.shape[-1] * count), dtype)

"""The convolutions of a graph, what each costs, and what its own quantisation does to the outputs.

A layer is named by its weight, as in `Ranges.excluded`. One weight may stand in several convolutions:
SOLO's branches are the same for all levels of the pyramid.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from solo_edge.calibration.qdq import insert_pairs, placement
from solo_edge.calibration.session import open_session

__all__ = ["LayerNoise", "layer_noise", "multiply_adds", "short_name"]

Array = NDArray[np.float32]


@dataclass(frozen=True)
class LayerNoise:
    """What happens to the network's outputs when this layer alone computes in INT8."""

    layer: str
    multiply_adds: int  # for one image, in all its places
    noise: dict[str, float]  # output -> power of the error / power of the signal

    @property
    def short_name(self) -> str:
        """As a person would call it: head.kernel_convs.0.conv."""
        return short_name(self.layer)

    @property
    def total(self) -> float:
        """The outputs' noise together; for independent layers, noises add up."""
        return sum(self.noise.values())

    @property
    def sqnr_db(self) -> dict[str, float]:
        """Output -> signal-to-quantisation-noise ratio in dB; infinite where nothing changed."""
        return {name: decibels(noise) for name, noise in self.noise.items()}


def short_name(layer: str) -> str:
    """The layer's name without what every one of them has."""
    return layer.removeprefix("model.").removesuffix(".weight")


def decibels(noise: float) -> float:
    """10 log10(signal / noise), for noise relative to the signal."""
    return float("inf") if noise <= 0 else float(-10 * np.log10(noise))


def multiply_adds(model: onnx.ModelProto) -> dict[str, int]:
    """Multiply-adds of each layer for one run of the graph, by the name of its weight."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    weights = {each.name: tuple(each.dims) for each in graph.initializer}
    values = (*graph.value_info, *graph.output)
    sizes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
    costs: dict[str, int] = {}
    for node in graph.node:
        if node.op_type == "Conv" and node.input[1] in weights:
            # [O, I / groups, ...]: each output value is a sum over all but the first.
            each = int(np.prod(weights[node.input[1]][1:]))
            costs[node.input[1]] = costs.get(node.input[1], 0) + each * int(
                np.prod(sizes[node.output[0]])
            )
    return costs


def layer_noise(
    model: onnx.ModelProto,
    ranges: Mapping[str, float],
    images: Sequence[Array],
    *,
    excluded: Collection[str] = (),
    bias_shifts: Mapping[str, Sequence[float]] | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[LayerNoise]:
    """Quantise one layer at a time and compare the outputs with the float graph's.

    Args:
        model: the float graph that the ranges were measured on.
        ranges: as for `insert_pairs`.
        images: [1, 3, H, W] each, prepared as for the network; a dozen is enough for an order.
        excluded: layers that stay in float in any case.
        bias_shifts: as for `insert_pairs`.
        progress: is called with the number of layers done and of all.

    Returns:
        The noisiest first.
    """
    every = placement(model).weights
    chosen = [name for name in every if name not in excluded]
    costs = multiply_adds(model)
    exact = list(_run(model, images, threads))
    found = []
    for done, layer in enumerate(chosen):
        progress(done, len(chosen))
        quantised = insert_pairs(model, ranges, set(every) - {layer}, bias_shifts)
        noise = _relative_noise(exact, _run(quantised, images, threads))
        found.append(LayerNoise(layer, costs[layer], noise))
    progress(len(chosen), len(chosen))
    return sorted(found, key=lambda each: (-each.total, each.layer))


def _run(
    model: onnx.ModelProto, images: Sequence[Array], threads: int | None
) -> Iterator[dict[str, list[Array]]]:
    """Output -> its tensors, for each image.

    The category scores are taken before points NMS, which makes of a last bit's difference between
    two neighbours all or nothing.
    """
    before_nms = [node.output[0] for node in model.graph.node if node.op_type == "Sigmoid"]
    groups = {output.name: [output.name] for output in model.graph.output}
    if before_nms and "category_scores" in groups:
        groups["category_scores"] = before_nms
    names = [name for group in groups.values() for name in group]
    session = open_session(model, threads, watched=names)
    for image in images:
        values = dict(zip(names, session.run(names, {"image": image}), strict=True))
        yield {output: [values[name] for name in group] for output, group in groups.items()}


def _relative_noise(
    exact: Sequence[Mapping[str, list[Array]]], found: Iterator[Mapping[str, list[Array]]]
) -> dict[str, float]:
    """For each output, the squared error over the squared values, over all images."""
    errors: dict[str, float] = {}
    signals: dict[str, float] = {}
    for wanted, got in zip(exact, found, strict=True):
        for name, tensors in wanted.items():
            for value, quantised in zip(tensors, got[name], strict=True):
                error = float(np.square(quantised - value, dtype=np.float64).sum())
                errors[name] = errors.get(name, 0.0) + error
                power = float(np.square(value, dtype=np.float64).sum())
                signals[name] = signals.get(name, 0.0) + power
    tiny = np.finfo(np.float64).tiny
    return {name: error / max(signals[name], tiny) for name, error in errors.items()}

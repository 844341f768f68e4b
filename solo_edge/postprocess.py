"""From the network's outputs to instances.

The authors' inference (github.com/WXinlong/SOLO, `get_seg_single`): points NMS, all (cell, class)
scores above `score_threshold`, a 1x1 convolution with each chosen cell's kernel, sigmoid, pixels
above `mask_threshold`; masks not larger than their level's stride fall out; score x maskness;
Matrix NMS; scores of at least `update_threshold`; the best `max_instances`. The one difference: the
number of candidates is limited to `max_candidates` before the convolution (by class score) instead
of behind it (by class score x maskness), because that makes the shapes known.

Three implementations: `postprocess_arrays` (NumPy, the true number of candidates: the fast one on a
CPU, without torch), `postprocess_slots` (the GPU kernels, fixed shapes) and `static_postprocess`
(torch, fixed shapes, exports to standard ONNX operators). `postprocess` picks one of the first two.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from solo_edge import kernels
from solo_edge.config import PostprocessConfig, from_dict
from solo_edge.instances import Instances, LazyMasks
from solo_edge.kernels import host
from solo_edge.kernels.resize import STRIDE
from solo_edge.kernels.results import MAX_SCORE, InstanceSlots
from solo_edge.preprocess import Geometry

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "instances_from_slots",
    "network_tensors",
    "postprocess",
    "postprocess_arrays",
    "postprocess_slots",
    "static_postprocess",
]


class NetworkOutput(Protocol):
    """What `postprocess` reads of `solo_edge.models.solov2.SOLOv2Output`."""

    @property
    def category_logits(self) -> Sequence[Tensor]: ...  # [B, C, S, S] for each level
    @property
    def mask_kernels(self) -> Sequence[Tensor]: ...  # [B, E, S, S] for each level
    @property
    def mask_features(self) -> Tensor: ...  # [B, E, h, w]
    @property
    def strides(self) -> Sequence[int]: ...  # one for each level


def postprocess(
    output: NetworkOutput,
    image_sizes: Sequence[tuple[int, int]],
    original_sizes: Sequence[tuple[int, int]],
    *,
    class_names: Sequence[str] | None = None,
    **thresholds: Any,
) -> list[Instances]:
    """Instances of each image of a batch, from the output of the PyTorch model.

    Args:
        output: of `SOLOv2.forward`, on any device.
        image_sizes: (height, width) of each image inside the padded input.
        original_sizes: (height, width) of each image as it came; the masks get this size.
        class_names: names of the C classes; without them "class 0", "class 1", ...
        thresholds: fields of `PostprocessConfig`, for example `score_threshold=0.3`.

    Raises:
        UsageError: an unknown or impossible threshold.
        ValueError: the number of sizes or names does not fit the output.
    """
    import torch

    config = from_dict(PostprocessConfig, thresholds)
    batch, classes = output.category_logits[0].shape[:2]
    for name, sizes in (("image_sizes", image_sizes), ("original_sizes", original_sizes)):
        if len(sizes) != batch:
            raise ValueError(
                f"{name} must have one entry for each of {batch} images, got {len(sizes)}"
            )
    names = _class_names(class_names, classes)
    height, width = output.mask_features.shape[-2:]
    input_size = (STRIDE * height, STRIDE * width)
    geometries = [
        Geometry(_size(original), _size(image), input_size)
        for image, original in zip(image_sizes, original_sizes, strict=True)
    ]
    with torch.no_grad():
        if output.mask_features.device.type != "cpu":
            slots = postprocess_slots(output, config)
            counts = slots.valid_count.tolist()
            found = []
            for i, (geometry, count) in enumerate(zip(geometries, counts, strict=True)):
                kept = (slots.labels.long(), slots.scores, slots.probabilities)
                a, b, c = (slot[i, :count].cpu().numpy() for slot in kept)
                found.append(instances_from_slots(a, b, c, count, config, geometry, names))
            return found
        tensors = network_tensors(output)
    category_scores, mask_kernels, mask_features, strides = (
        tensor.detach().numpy() for tensor in tensors
    )
    # One image at a time: the candidates' masks of a whole batch could fill the memory.
    return [
        postprocess_arrays(
            category_scores[i], mask_kernels[i], mask_features[i], strides, config, geometry, names
        )
        for i, geometry in enumerate(geometries)
    ]


def postprocess_slots(
    output: NetworkOutput, config: PostprocessConfig, *, backend: str = "auto"
) -> InstanceSlots:
    """The instances of a batch from the model's output, all on its device; nothing waits for it.

    On a CUDA GPU these are the Triton kernels (`solo_edge.kernels.postprocess`), and a CUDA graph
    can capture the call together with the network's.
    """
    import torch

    scores = [x.float().sigmoid() for x in output.category_logits]
    mask_kernels = torch.cat([x.flatten(2) for x in output.mask_kernels], dim=2)
    slots: InstanceSlots = kernels.postprocess(
        scores,
        mask_kernels,
        output.mask_features,
        _cell_strides(output),
        backend=backend,
        **dataclasses.asdict(config),
    )
    return slots


def _cell_strides(output: NetworkOutput) -> Tensor:
    """[T] float32."""
    import torch

    strides = [
        torch.full((x.shape[-1] * x.shape[-2],), float(stride), device=x.device)
        for x, stride in zip(output.mask_kernels, output.strides, strict=True)
    ]
    return torch.cat(strides)


def network_tensors(output: NetworkOutput) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The outputs of the `network` graph, from those of the PyTorch model; in float32, exportable.

    Returns:
        category_scores [B, C, T] after sigmoid and points NMS, mask_kernels [B, E, T],
        mask_features [B, E, h, w], cell_strides [T]; T counts the cells of all levels, in order,
        row by row.
    """
    import torch

    from solo_edge.kernels import reference

    scores = [reference.points_nms(x.float().sigmoid()).flatten(2) for x in output.category_logits]
    mask_kernels = torch.cat([x.float().flatten(2) for x in output.mask_kernels], dim=2)
    features = output.mask_features.float()
    return torch.cat(scores, dim=2), mask_kernels, features, _cell_strides(output)


def postprocess_arrays(
    category_scores: NDArray[np.float32],
    mask_kernels: NDArray[np.float32],
    mask_features: NDArray[np.float32],
    cell_strides: NDArray[Any],
    config: PostprocessConfig,
    geometry: Geometry,
    class_names: Sequence[str] | None = None,
) -> Instances:
    """Instances of one image from the `network` graph's outputs. NumPy only; the arrays are not kept.

    Args:
        category_scores: [C, T] after sigmoid and points NMS.
        mask_kernels: [E, T].
        mask_features: [E, h, w].
        cell_strides: [T], stride of each cell's level: the largest area (in stride-4 pixels) that
            is dropped.

    Raises:
        ValueError: the shapes do not fit together, or the number of class names is wrong.
    """
    _check_shapes(category_scores, mask_kernels, mask_features, cell_strides, batch=())
    names = _class_names(class_names, category_scores.shape[0])
    arrays = (category_scores, mask_kernels, mask_features, cell_strides)
    scores, labels, probabilities = host.best_instances(*arrays, **dataclasses.asdict(config))
    return Instances(
        scores,
        labels,
        LazyMasks(probabilities, geometry, config.mask_threshold),
        class_names=names,
        image_size=geometry.original_size,
    )


def static_postprocess(
    category_scores: Tensor,
    mask_kernels: Tensor,
    mask_features: Tensor,
    cell_strides: Tensor,
    config: PostprocessConfig,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The tail of the `full` graph: every shape is known beforehand, empty slots have score 0.

    Uses only operations with a standard ONNX form. Instead of sorting the masks, it compares the
    scores pair by pair ("i is better than j"), so no mask is moved. Keep it in float32: areas are
    sums of thousands of ones.

    Args:
        category_scores: [B, C, T] after sigmoid and points NMS.
        mask_kernels: [B, E, T].
        mask_features: [B, E, h, w].
        cell_strides: [T] float.

    Returns:
        labels [B, M] int64, scores [B, M] descending, probabilities [B, M, h, w] at stride 4,
        valid_count [B] int64, with M = `config.max_instances`. Slots from `valid_count` on are all
        zero.

    Raises:
        ValueError: the shapes do not fit together.
    """
    import torch
    import torch.nn.functional as F

    from solo_edge.kernels import reference

    batch = tuple(category_scores.shape[:1])
    _check_shapes(category_scores, mask_kernels, mask_features, cell_strides, batch=batch)
    classes, cells = category_scores.shape[1:]
    height, width = mask_features.shape[2:]
    count = min(config.max_candidates, classes * cells)

    flat = category_scores.flatten(1)
    allowed = (flat > config.score_threshold) & (flat < MAX_SCORE)
    scores, chosen = torch.where(allowed, flat, torch.zeros_like(flat)).topk(count, sorted=True)
    labels = torch.div(chosen, cells, rounding_mode="trunc")
    cell = chosen - labels * cells
    chosen_kernels = _take(mask_kernels.transpose(1, 2), cell)  # [B, K, E]

    logits = chosen_kernels @ mask_features.flatten(2)
    probabilities = logits.sigmoid()  # [B, K, h * w]
    inside = probabilities > config.mask_threshold
    areas = inside.to(flat.dtype).sum(dim=2)
    maskness = torch.where(inside, probabilities, 0.0).sum(dim=2)
    maskness = maskness / areas.clamp(min=1.0)
    strides = cell_strides.to(flat.dtype).index_select(0, cell.flatten()).unflatten(0, cell.shape)
    valid = (scores > config.score_threshold) & (areas > strides)
    scores = torch.where(valid, scores * maskness, torch.zeros_like(scores))

    mine, other = scores.unsqueeze(2), scores.unsqueeze(1)
    # Equal scores count in the order of (class, cell): topk leaves theirs undefined.
    earlier = chosen.unsqueeze(2) < chosen.unsqueeze(1)
    better = (mine > other) | ((mine == other) & earlier)  # [B, i, j]
    same = labels.unsqueeze(2) == labels.unsqueeze(1)
    related = (better & same).to(
        flat.dtype
    )  # an invalid one, of score 0, is better than no valid one
    iou = reference.mask_iou(inside.unflatten(2, (height, width))) * related
    scores = scores * reference.decay_factors(iou, decay=config.decay, sigma=config.sigma)

    # Below every score that can be kept, 0 included, lie the slots that hold nothing.
    kept = valid & (scores >= config.update_threshold)
    scores, best = torch.where(kept, scores, torch.full_like(scores, -1.0)).topk(
        min(config.max_instances, count), sorted=True
    )
    filled = scores >= 0
    labels = torch.where(filled, labels.gather(1, best), torch.zeros_like(best))
    scores = scores.clamp(min=0.0)
    probabilities = _take(probabilities, best)
    probabilities = torch.where(
        filled.unsqueeze(2), probabilities, torch.zeros_like(probabilities)
    ).unflatten(2, (height, width))
    missing = config.max_instances - best.shape[1]
    if missing > 0:  # a tiny network has fewer (cell, class) pairs than slots
        labels, scores = F.pad(labels, (0, missing)), F.pad(scores, (0, missing))
        probabilities = F.pad(probabilities, (0, 0, 0, 0, 0, missing))
    return labels, scores, probabilities, filled.to(torch.int64).sum(dim=1)


def instances_from_slots(
    labels: NDArray[np.int64],
    scores: NDArray[np.float32],
    probabilities: NDArray[np.float32],
    valid_count: int,
    config: PostprocessConfig,
    geometry: Geometry,
    class_names: Sequence[str],
) -> Instances:
    """Instances of one image from the `full` graph's outputs. The arrays are copied.

    Args:
        labels, scores: [M].
        probabilities: [M, h, w] at stride 4.
        valid_count: the number of slots that are filled.
    """
    kept = LazyMasks(probabilities[:valid_count].copy(), geometry, config.mask_threshold)
    return Instances(
        scores[:valid_count].copy(),
        labels[:valid_count].copy(),
        kept,
        class_names=class_names,
        image_size=geometry.original_size,
    )


def _take(values: Tensor, index: Tensor) -> Tensor:
    """[B, n, D], [B, K] -> [B, K, D]: rows of each image, as one Gather."""
    import torch

    batch, rows = values.shape[:2]
    start = torch.arange(batch, device=index.device).unsqueeze(1) * rows
    taken = values.flatten(0, 1).index_select(0, (index + start).flatten())
    return taken.reshape(*index.shape, values.shape[2])


def _check_shapes(
    category_scores: Any, mask_kernels: Any, mask_features: Any, cell_strides: Any, batch: Any
) -> None:
    lead = len(batch)
    shapes = [tuple(x.shape) for x in (category_scores, mask_kernels, mask_features, cell_strides)]
    cells, length = shapes[0][-1], shapes[2][lead] if len(shapes[2]) > lead else None
    fits = (
        [len(shape) for shape in shapes] == [lead + 2, lead + 2, lead + 3, 1]
        and all(shape[:lead] == batch for shape in shapes[:3])
        and shapes[1][lead:] == (length, cells)
        and shapes[3] == (cells,)
    )
    if not fits:
        axes = "B, " if lead else ""
        raise ValueError(
            f"want category_scores [{axes}C, T], mask_kernels [{axes}E, T], mask_features [{axes}E, h, w]"
            f" and cell_strides [T], got {', '.join(map(str, shapes))}"
        )


def _class_names(class_names: Sequence[str] | None, classes: int) -> tuple[str, ...]:
    if class_names is None:
        return tuple(f"class {label}" for label in range(classes))
    if len(class_names) != classes:
        raise ValueError(f"class_names must name {classes} classes, got {len(class_names)}")
    return tuple(class_names)


def _size(size: Sequence[int]) -> tuple[int, int]:
    height, width = size
    return int(height), int(width)

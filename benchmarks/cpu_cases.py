"""What is compared on the CPU: the authors' post-processing in plain torch, and ours in NumPy.

The scene is 448 x 768 (mask features 112 x 192, E = 128) with N candidates of eight classes, rendered
to 720 x 1280. Every case can check that both sides find the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from solo_edge.config import PostprocessConfig, preset
from solo_edge.instances import Instances
from solo_edge.kernels import host, matrix_nms, render_masks
from solo_edge.postprocess import postprocess_arrays
from solo_edge.preprocess import Geometry

__all__ = ["CASES", "CONFIG", "GEOMETRY", "Accuracy", "Case", "Prepared", "Scene", "make_scene"]

HEIGHT, WIDTH, LENGTH, CLASSES = 112, 192, 128, 8
CONFIG = PostprocessConfig()
GEOMETRY = Geometry((720, 1280), (432, 768), (448, 768))


class Scene(NamedTuple):
    """The network's outputs for one image."""

    category_scores: np.ndarray  # [C, T] after points NMS
    mask_kernels: np.ndarray  # [E, T]
    mask_features: np.ndarray  # [E, h, w]
    cell_strides: np.ndarray  # [T]


class Found(NamedTuple):
    """The result of a whole post-processing, as arrays."""

    labels: np.ndarray  # [n]
    scores: np.ndarray  # [n]
    masks: np.ndarray  # [n, H, W] bool


@dataclass(frozen=True)
class Accuracy:
    """How far ours is from the baseline. The labels and their order are equal, or there is no result."""

    score_difference: float  # largest
    mask_iou: float  # smallest; 1 where no masks are compared


class Prepared(NamedTuple):
    """Two functions to be timed, and the check that they find the same."""

    baseline: Callable[[], Any]
    ours: Callable[[], Any]
    check: Callable[[], Accuracy]


@dataclass(frozen=True)
class Case:
    """One row of the benchmark."""

    name: str
    candidates: int
    prepare: Callable[[int], Prepared]  # called with the number of candidates

    @property
    def key(self) -> str:
        return f"{self.name}, N={self.candidates}"


@functools.lru_cache(maxsize=1)
def make_scene(count: int, *, candidates_per_cell: int = 1) -> Scene:
    """Ellipses, about five candidates for each; the channels of the features are theirs.

    No two candidates share a cell unless asked for, though in a trained network they often do: that
    is the harder case for us.
    """
    rng = np.random.default_rng(count)
    model = preset("solov2-light-r18-448", num_classes=CLASSES)
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    objects = rng.uniform((0, 0, 5, 5), (HEIGHT, WIDTH, 25, 40), (min(max(count // 5, 1), 100), 4))
    features = 0.1 * rng.standard_normal((LENGTH, HEIGHT, WIDTH), dtype=np.float32)
    for channel, (cy, cx, ry, rx) in zip(features, objects, strict=False):
        channel += np.clip(3 - 3 * np.hypot((y - cy) / ry, (x - cx) / rx), -3, 3)
    mask_kernels = 0.03 * rng.standard_normal((LENGTH, model.num_cells), dtype=np.float32)
    cells = rng.choice(model.num_cells, -(-count // candidates_per_cell), replace=False)
    owner = rng.integers(0, len(objects), len(cells))
    mask_kernels[owner, cells] += 1.5
    scores = np.zeros((CLASSES, model.num_cells), dtype=np.float32)
    for i in range(count):
        nth, cell = divmod(i, len(cells))
        label = (owner[cell] + nth) % CLASSES
        scores[label, cells[cell]] = rng.uniform(0.12, 0.99)
    strides = np.repeat(
        np.asarray(model.strides, np.float32), [size * size for size in model.grid_sizes]
    )
    return Scene(scores, mask_kernels, features, strides)


def plain_postprocess(
    category_scores: Tensor, mask_kernels: Tensor, mask_features: Tensor, cell_strides: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """As the authors write it (`get_seg_single`): float masks of all candidates, all at once."""
    flat = category_scores.flatten()
    chosen = (flat > CONFIG.score_threshold).nonzero().flatten()
    chosen = chosen[flat[chosen].argsort(descending=True, stable=True)[: CONFIG.max_candidates]]
    scores, cells = flat[chosen], chosen % category_scores.shape[1]
    labels = torch.div(chosen, category_scores.shape[1], rounding_mode="trunc")
    weights = mask_kernels[:, cells].T[:, :, None, None].contiguous()
    probabilities = F.conv2d(mask_features[None], weights)[0].sigmoid()
    masks = probabilities > CONFIG.mask_threshold
    areas = masks.sum((1, 2)).float()
    large = areas > cell_strides[cells]
    masks, probabilities, areas = masks[large], probabilities[large], areas[large]
    scores, labels = scores[large], labels[large]
    scores = scores * ((probabilities * masks.float()).sum((1, 2)) / areas)
    order = scores.argsort(descending=True, stable=True)
    masks, probabilities, areas = masks[order], probabilities[order], areas[order]
    scores, labels = scores[order], labels[order]
    scores = plain_matrix_nms(masks, labels, scores, areas)
    kept = scores >= CONFIG.update_threshold
    probabilities, scores, labels = probabilities[kept], scores[kept], labels[kept]
    order = scores.argsort(descending=True, stable=True)[: CONFIG.max_instances]
    probabilities, scores, labels = probabilities[order], scores[order], labels[order]
    height, width = GEOMETRY.resized_size
    full = F.interpolate(probabilities[None], scale_factor=4, mode="bilinear", align_corners=False)
    full = full[:, :, :height, :width]
    full = F.interpolate(full, size=GEOMETRY.original_size, mode="bilinear", align_corners=False)
    return labels, scores, full[0] > CONFIG.mask_threshold


def plain_matrix_nms(
    masks: Tensor, labels: Tensor, scores: Tensor, areas: Tensor | None = None
) -> Tensor:
    """The authors' `matrix_nms`, best score first: a product of float masks, then N x N matrices."""
    flat = masks.flatten(1).float()
    areas = flat.sum(1) if areas is None else areas
    common = flat @ flat.T
    iou = (common / (areas[:, None] + areas - common)).triu(diagonal=1)
    iou = iou * (labels[:, None] == labels).float().triu(diagonal=1)
    own = iou.amax(0)[:, None]
    decay = torch.exp(-CONFIG.sigma * iou**2) / torch.exp(-CONFIG.sigma * own**2)
    return scores * decay.amin(0)


def _whole(form: str, count: int, *, candidates_per_cell: int = 1) -> Prepared:
    scene = make_scene(count, candidates_per_cell=candidates_per_cell)
    tensors = [torch.from_numpy(array) for array in scene]

    def baseline() -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            return plain_postprocess(*tensors)

    def ours() -> tuple[Instances, Any]:
        found = postprocess_arrays(*scene, CONFIG, GEOMETRY)
        return found, list(found.regions()) if form == "regions" else found.masks

    def ours_packed() -> tuple[Any, Any]:
        best = host.best_instances(*scene, **vars(CONFIG))
        sizes = [GEOMETRY.resized_size], [GEOMETRY.original_size]
        count = np.array([len(best.scores)])
        return best, render_masks(best.probabilities[None], count, *sizes, packed=True)

    def check() -> Accuracy:
        want = Found(*(tensor.numpy() for tensor in baseline()))
        if form == "packed":
            best, words = ours_packed()
            octets = words[0].astype("<u4").view(np.uint8)
            bits = np.unpackbits(octets, axis=-1, bitorder="little")
            got = Found(best.labels, best.scores, bits[..., : want.masks.shape[2]].astype(bool))
        else:
            instances, parts = ours()
            masks = parts if form == "dense" else np.zeros(want.masks.shape, bool)
            for mask, part in zip(masks, parts if form == "regions" else (), strict=False):
                rows = slice(part.top, part.top + part.mask.shape[0])
                mask[rows, part.left : part.left + part.mask.shape[1]] = part.mask
            got = Found(instances.labels, instances.scores, masks)
        return _compare_found(got, want)

    return Prepared(baseline, ours_packed if form == "packed" else ours, check)


def _matrix_nms(count: int, *, classes: int = CLASSES) -> Prepared:
    """On the bool masks of the scene's candidates: packing them is part of our time."""
    scene = make_scene(count)
    best = host.best_candidates(
        scene.category_scores, score_threshold=CONFIG.score_threshold, max_candidates=count
    )
    kernels = np.ascontiguousarray(scene.mask_kernels[:, best.cells].T)
    packed = host.dynamic_masks(scene.mask_features, kernels, CONFIG.mask_threshold)
    masks, labels = host.unpack_masks(packed.words, (HEIGHT, WIDTH)), best.labels % classes
    arrays = (masks, labels, best.scores)
    tensors = [torch.from_numpy(array) for array in arrays]

    def baseline() -> Tensor:
        return plain_matrix_nms(*tensors)

    def ours() -> np.ndarray:
        return matrix_nms(*arrays)

    def check() -> Accuracy:
        return _accuracy(ours(), baseline().numpy())

    return Prepared(baseline, ours, check)


def _render(count: int) -> Prepared:
    """The masks of `count` instances at the original size."""
    scene = make_scene(500)
    found = postprocess_arrays(*scene, CONFIG, GEOMETRY).select(slice(count))
    probabilities = host.best_instances(*scene, **vars(CONFIG)).probabilities[:count]
    tensor = torch.from_numpy(probabilities)[None]
    height, width = GEOMETRY.resized_size

    def baseline() -> Tensor:
        full = F.interpolate(tensor, scale_factor=4, mode="bilinear", align_corners=False)
        full = full[:, :, :height, :width]
        full = F.interpolate(full, size=GEOMETRY.original_size, mode="bilinear")
        return full[0] > CONFIG.mask_threshold

    def ours() -> list[Any]:
        return list(found.select(slice(None)).regions())  # a copy: it has rendered nothing yet

    def check() -> Accuracy:
        want = Found(found.labels, found.scores, baseline().numpy())
        return _compare_found(Found(found.labels, found.scores, found.masks), want)

    return Prepared(baseline, ours, check)


def _compare_found(got: Found, want: Found) -> Accuracy:
    if not np.array_equal(got.labels, want.labels):
        raise AssertionError("the instances differ")
    both, either = (got.masks & want.masks).sum((1, 2)), (got.masks | want.masks).sum((1, 2))
    iou = float(np.min(both / np.maximum(either, 1), initial=1.0))
    return _accuracy(got.scores, want.scores, iou)


def _accuracy(scores: np.ndarray, wanted: np.ndarray, iou: float = 1.0) -> Accuracy:
    difference = float(np.abs(scores - wanted).max(initial=0.0))
    if difference > 2e-6 or iou < 0.999:
        raise AssertionError(f"scores differ by {difference:.1e}, the least mask IoU is {iou:.5f}")
    return Accuracy(difference, iou)


_WHOLE = "whole post-processing"
_COUNTS = (20, 100, 500)
CASES = (
    *(
        Case(f"{_WHOLE}, masks as regions", n, functools.partial(_whole, "regions"))
        for n in _COUNTS
    ),
    *(Case(f"{_WHOLE}, packed masks", n, functools.partial(_whole, "packed")) for n in _COUNTS),
    *(Case(f"{_WHOLE}, masks as arrays", n, functools.partial(_whole, "dense")) for n in _COUNTS),
    Case(
        f"{_WHOLE}, two candidates of each cell",
        500,
        functools.partial(_whole, "regions", candidates_per_cell=2),
    ),
    *(Case("Matrix NMS", n, _matrix_nms) for n in _COUNTS),
    Case("Matrix NMS, one class", 500, functools.partial(_matrix_nms, classes=1)),
    Case("rendering", 100, _render),
)

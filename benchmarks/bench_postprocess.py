"""Post-processing on the CPU: each operation beside its plain version, and the whole tail.

    scripts/bench                       # compare within a group; the ratio is the result
    scripts/bench -k matrix_nms

The scene is 448 x 768 (mask features 112 x 192, E = 128) with N candidates of eight classes.
Every case checks that it computes the reference's result before it is timed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from solo_edge.config import PostprocessConfig, preset
from solo_edge.kernels import host, matrix_nms, reference
from solo_edge.postprocess import postprocess_arrays, static_postprocess
from solo_edge.preprocess import Geometry

HEIGHT, WIDTH, LENGTH, CLASSES = 112, 192, 128, 8
COUNTS = (20, 100, 500)


@dataclass
class Scene:
    masks: np.ndarray  # [N, H, W] bool
    labels: np.ndarray  # [N]
    scores: np.ndarray  # [N] descending


@pytest.fixture(params=COUNTS, ids=lambda n: f"N={n}")
def scene(request: pytest.FixtureRequest) -> Scene:
    """Random ellipses, several for each object, as a network gives them."""
    count, rng = request.param, np.random.default_rng(request.param)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    objects = rng.uniform((0, 0, 5, 5), (HEIGHT, WIDTH, 25, 40), (max(count // 5, 1), 4))
    chosen = objects[rng.integers(0, len(objects), count)] + rng.normal(0, 1, (count, 4))
    cy, cx, ry, rx = (column[:, None, None] for column in chosen.T)
    masks = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
    scores = np.sort(rng.uniform(0.1, 1, count))[::-1].astype(np.float32)
    return Scene(masks, rng.integers(0, CLASSES, count), scores)


@pytest.mark.parametrize("backend", ["torch", "numpy"])
def test_matrix_nms(benchmark, scene: Scene, backend: str) -> None:
    benchmark.group = f"matrix_nms N={len(scene.scores)}"
    arrays = (scene.masks, scene.labels, scene.scores)
    tensors = tuple(torch.from_numpy(array.copy()) for array in arrays)
    given = tensors if backend == "torch" else arrays
    result = benchmark(matrix_nms, *given, backend=backend)
    expected = reference.matrix_nms(*tensors, decay="gaussian", sigma=2.0)
    np.testing.assert_allclose(np.asarray(result), expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("form", ["plain", "fused"])
def test_dynamic_masks(benchmark, scene: Scene, form: str) -> None:
    count = len(scene.scores)
    benchmark.group = f"dynamic convolution to packed masks N={count}"
    rng = np.random.default_rng(0)
    features = rng.standard_normal((LENGTH, HEIGHT, WIDTH), dtype=np.float32)
    mask_kernels = rng.standard_normal((count, LENGTH), dtype=np.float32) / 10 - 0.02

    def plain() -> np.ndarray:
        return host.pack_masks(host.sigmoid(host.dynamic_conv(features, mask_kernels)) > 0.5)

    def fused() -> np.ndarray:
        return host.dynamic_masks(features, mask_kernels, 0.5).words

    words = benchmark(plain if form == "plain" else fused)
    # Pixels whose probability is 0.5 to the last bit may fall on either side.
    differing = host.unpack_masks(words ^ plain(), (HEIGHT, WIDTH))
    assert differing.mean() < 1e-5


@pytest.mark.parametrize("form", ["static torch graph", "numpy"])
def test_whole_tail(benchmark, scene: Scene, form: str) -> None:
    """From the network's outputs to instances: the true number of candidates against 500 slots."""
    count = len(scene.scores)
    benchmark.group = f"whole tail, {count} candidates"
    light = preset("solov2-light-r18-448", num_classes=CLASSES)
    config = PostprocessConfig()
    rng = np.random.default_rng(1)
    category_scores = np.zeros((CLASSES, light.num_cells), np.float32)
    cells = rng.permutation(light.num_cells)[:count]
    category_scores[scene.labels, cells] = scene.scores
    mask_kernels = rng.standard_normal((LENGTH, light.num_cells), dtype=np.float32) / 10
    features = rng.standard_normal((LENGTH, HEIGHT, WIDTH), dtype=np.float32)
    strides = np.repeat(
        np.asarray(light.strides, np.float32), [size * size for size in light.grid_sizes]
    )
    size = light.input_size
    geometry = Geometry(size, size, size)
    tensors = [torch.from_numpy(a)[None] for a in (category_scores, mask_kernels, features)]

    def in_graph() -> int:
        return int(static_postprocess(*tensors, torch.from_numpy(strides), config)[3][0])

    def on_host() -> int:
        arrays = (category_scores, mask_kernels, features, strides)
        return len(postprocess_arrays(*arrays, config, geometry))

    found = benchmark(in_graph if form == "static torch graph" else on_host)
    assert found == on_host()

"""Post-processing on the CPU: each operation beside its plain version, and the whole tail.

    scripts/bench                       # compare within a group; the ratio is the result
    scripts/bench -k "matrix_nms or Matrix"

pytest-benchmark times one side after the other. The rows "ours" also carry the ratios of rounds in
which the two sides took turns (`extra_info` of --benchmark-json); `cpu_kernels.py` prints these, and
the peak memory. Every case checks that it computes the plain version's result before it is timed.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cpu_cases import CASES, CONFIG, GEOMETRY, Case, make_scene
from interleaved import compare

from solo_edge.kernels import host
from solo_edge.postprocess import postprocess_arrays, static_postprocess

COUNTS = (20, 100, 500)


@pytest.mark.parametrize("side", ["plain", "ours"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.key)
def test_against_plain_torch(benchmark, case: Case, side: str) -> None:
    benchmark.group = case.key
    baseline, ours, check = case.prepare(case.candidates)
    accuracy = check()
    if side == "ours":
        result = compare(baseline, ours, rounds=9)
        benchmark.extra_info["wall_ratio"] = vars(result.wall_ratio)
        benchmark.extra_info["cpu_ratio"] = vars(result.cpu_ratio)
        benchmark.extra_info["accuracy"] = vars(accuracy)
    benchmark(ours if side == "ours" else baseline)


@pytest.mark.parametrize("form", ["one by one", "fused"])
@pytest.mark.parametrize("count", COUNTS)
def test_dynamic_masks(benchmark, count: int, form: str) -> None:
    """Half of all pixels are inside here, the worst case for us."""
    benchmark.group = f"dynamic convolution to packed masks, N={count}"
    features = make_scene(count).mask_features
    size = features.shape[1:]
    rng = np.random.default_rng(0)
    mask_kernels = rng.standard_normal((count, len(features)), dtype=np.float32) / 10 - 0.02

    def one_by_one() -> np.ndarray:
        probabilities = host.sigmoid(host.dynamic_conv(features, mask_kernels))
        masks = probabilities > 0.5
        sums = np.where(masks, probabilities, 0).sum((1, 2))
        sums /= np.maximum(masks.sum((1, 2)), 1)
        return host.pack_masks(masks)

    def fused() -> np.ndarray:
        masks = host.dynamic_masks(features, mask_kernels, 0.5)
        masks.maskness  # noqa: B018
        return masks.words

    # Pixels whose probability is 0.5 to the last bit may fall on either side.
    differing = host.unpack_masks(fused() ^ one_by_one(), size)
    assert differing.mean() < 1e-5
    benchmark(one_by_one if form == "one by one" else fused)


@pytest.mark.parametrize("form", ["static torch graph", "numpy"])
@pytest.mark.parametrize("count", COUNTS)
def test_true_number_against_slots(benchmark, count: int, form: str) -> None:
    """From the network's outputs to instances: the true number of candidates against 500 slots."""
    benchmark.group = f"tail without rendering, {count} candidates"
    scene = make_scene(count)
    *tensors, strides = (torch.from_numpy(array) for array in scene)
    batch = [tensor[None] for tensor in tensors]

    def in_graph() -> int:
        return int(static_postprocess(*batch, strides, CONFIG)[3][0])

    def on_host() -> int:
        return len(postprocess_arrays(*scene, CONFIG, GEOMETRY))

    assert in_graph() == on_host()
    benchmark(in_graph if form == "static torch graph" else on_host)

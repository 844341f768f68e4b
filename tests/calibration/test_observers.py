"""Ranges chosen from streaming histograms against plain definitions on the raw samples."""

from __future__ import annotations

import json
import math
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from solo_edge.calibration.observers import (
    ZERO_CHANNEL_SCALE,
    Histogram,
    Method,
    choose_range,
    quantization_error,
    weight_scales,
)

METHODS: tuple[Method, ...] = get_args(Method)
NAMES = ["uniform", "normal", "laplace", "rectified"]


def samples(name: str, count: int = 50_000) -> NDArray[np.float32]:
    random = np.random.default_rng(NAMES.index(name))
    if name == "uniform":
        values = random.uniform(-3, 3, count)
    elif name == "normal":
        values = random.normal(size=count)
    elif name == "laplace":
        values = random.laplace(size=count)
    else:
        values = np.maximum(random.normal(size=count), 0)
        values[: count // 2000] = random.uniform(8, 20, count // 2000)
        random.shuffle(values)
    return values.astype(np.float32)


def observed(values: Any, bins: int = 2048) -> Histogram:
    histogram = Histogram(bins)
    histogram.update(np.asarray(values))
    return histogram


# Plain definitions on raw samples.


def plain_percentile(values: NDArray[Any], percentile: float) -> float:
    """The smallest magnitude that `percentile` % of the values do not exceed."""
    ordered = np.sort(np.abs(values))
    return float(ordered[math.ceil(len(ordered) * (percentile / 100)) - 1])


def plain_error(values: NDArray[Any], limit: float, levels: int = 127) -> float:
    values = values.astype(np.float64)
    scale = limit / levels
    quantised = np.clip(np.round(values / scale), -levels, levels)
    return float(np.mean((values - quantised * scale) ** 2))


def plain_divergences(values: NDArray[Any], width: float, groups: int) -> dict[int, float]:
    """KL divergence of each threshold in bins, in loops."""
    bins = [0] * (math.floor(np.abs(values).max() / width) + 1)
    for value in np.abs(values.astype(np.float64)).tolist():
        bins[math.floor(value / width)] += 1
    bins[0] = bins[1]
    result = {}
    for kept in range(groups, len(bins) + 1):
        reference = [float(number) for number in bins[:kept]]
        reference[-1] += sum(bins[kept:])
        total, members = [0] * groups, [0] * groups
        for k in range(kept):
            if bins[k]:
                total[k * groups // kept] += bins[k]
                members[k * groups // kept] += 1
        candidate = [
            total[k * groups // kept] / members[k * groups // kept] if bins[k] else 0.0
            for k in range(kept)
        ]
        reference = [number + 1e-4 for number in reference]
        candidate = [number + 1e-4 for number in candidate]
        of_all, of_kept = sum(reference), sum(candidate)
        result[kept] = sum(
            p / of_all * math.log((p / of_all) / (q / of_kept))
            for p, q in zip(reference, candidate, strict=True)
        )
    return result


def plain_weight_scales(weights: NDArray[Any]) -> list[float]:
    return [float(np.abs(channel).max()) / 127 for channel in weights.astype(np.float64)]


# The histogram.

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
tame = st.floats(-100, 100, width=32)
batches = st.lists(
    hnp.arrays(np.float32, st.integers(0, 30), elements=floats | tame | st.just(0.0)), max_size=6
)


@settings(deadline=None, max_examples=150)
@given(batches, st.randoms(use_true_random=False))
def test_any_split_and_order_counts_exactly_the_same(parts: Any, random: Any) -> None:
    expected = observed(np.concatenate([np.zeros(0, np.float32), *parts]), 64)
    magnitudes = np.abs(np.concatenate([np.zeros(0, np.float32), *parts]).astype(np.float64))
    counts = [0] * 64
    for magnitude in magnitudes.tolist():
        counts[math.floor(magnitude / expected.width)] += 1
    assert expected.counts.tolist() == counts
    assert expected.maximum == magnitudes.max(initial=0)
    assert (expected.count, expected.zeros) == (len(magnitudes), int((magnitudes == 0).sum()))
    assert expected.negative == any((part < 0).any() for part in parts)

    random.shuffle(parts)
    streamed = Histogram(64)
    for part in parts:
        streamed.update(part)
    assert streamed.to_dict() == expected.to_dict()

    partial = [Histogram(64), *(observed(part, 64) for part in parts)]
    while len(partial) > 1:
        random.shuffle(partial)
        partial[0].merge(partial.pop())
    assert partial[0].to_dict() == expected.to_dict()


def test_the_range_is_the_power_of_two_above_the_maximum() -> None:
    histogram = observed(np.array([0.75, -1.0], np.float32), 4)
    assert (histogram.upper, histogram.width, histogram.maximum) == (2.0, 0.5, 1.0)
    assert histogram.counts.tolist() == [0, 1, 1, 0]
    assert histogram.negative
    histogram.update(np.array([100.0]))
    assert histogram.counts.tolist() == [2, 0, 0, 1]  # bins of 32


def test_a_large_array_is_counted_in_chunks_and_in_any_layout() -> None:
    values = samples("rectified", 200_000).reshape(2, 100, 1000)
    whole = observed(values).to_dict()
    assert (sum(whole["counts"]), whole["zeros"]) == (200_000, int((values == 0).sum()))
    assert observed(values.transpose(2, 0, 1)).to_dict() == whole
    assert observed(values[:, ::-1]).to_dict() == whole


def test_integers_and_half_floats_count_as_their_values() -> None:
    assert observed(np.array([-128, 127], np.int8)).maximum == 128.0
    assert observed(np.array([0.5, 2], np.float16)).counts[[256, 1024]].tolist() == [1, 1]
    assert not observed(np.array([-0.0, 1.0])).negative


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1.0, math.nan], "1 NaN of 2"),
        ([math.inf, -math.inf], "2 infinite of 2"),
        ([math.nan, math.inf, 0.0], "1 NaN and 1 infinite of 3"),
        ([1e39], "float32 cannot hold"),
    ],
)
def test_what_int8_cannot_hold_is_refused_and_not_counted(values: Any, words: str) -> None:
    histogram = observed([2.0])
    before = histogram.to_dict()
    with pytest.raises(ValueError, match=words):
        histogram.update(np.array(values))
    assert histogram.to_dict() == before


def test_wrong_uses_are_refused() -> None:
    with pytest.raises(TypeError, match="bool"):
        observed([True])
    for bins in (0, 1, 3, 2**25):
        with pytest.raises(ValueError, match="power of two"):
            Histogram(bins)
    with pytest.raises(ValueError, match="cannot join"):
        Histogram(64).merge(Histogram(128))


@pytest.mark.parametrize("values", [[], [0.0, 0.0], [-1.0, 3e-45], [1e-300], [3.4e38, 0.0]])
def test_json_keeps_everything(values: list[float]) -> None:
    histogram = observed(np.array(values, dtype=np.float64))
    state = json.loads(json.dumps(histogram.to_dict(), allow_nan=False))
    again = Histogram.from_dict(state)
    assert again.to_dict() == histogram.to_dict()
    again.update(np.ones(3))
    histogram.update(np.ones(3))
    assert again.to_dict() == histogram.to_dict()


@pytest.mark.parametrize(
    "damage",
    [
        {"bins": 1000},
        {"bins": 2},
        {"exponent": 3},
        {"count": 4.0},
        {"zeros": 3},
        {"zeros": -1},
        {"maximum": math.nan},
        {"maximum": 0.0},
        {"maximum": 1.5},
        {"negative": 1},
        {"counts": [2, 0, 1.0]},
        {"counts": [3]},
        {"counts": [4, 0, -1]},
        {"counts": None},
        {"other": 0},
    ],
)
def test_damaged_json_is_refused(damage: dict[str, Any]) -> None:
    state = observed([0.0, 0.25, -1.0], 4).to_dict()
    assert Histogram.from_dict(state).to_dict() == state
    with pytest.raises(ValueError, match=r"histogram|power of two"):
        Histogram.from_dict({**state, **damage})
    with pytest.raises(ValueError, match="fields"):
        Histogram.from_dict({name: state[name] for name in list(state)[1:]})


# The ranges.


@pytest.mark.parametrize("name", NAMES)
def test_max_is_exact(name: str) -> None:
    values = samples(name)
    assert choose_range(observed(values), "max") == float(np.abs(values).max())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("percentile", [50.0, 99.0, 99.9, 99.99, 99.999, 100.0])
def test_percentile_is_within_a_bin_of_the_sample_s(name: str, percentile: float) -> None:
    values = samples(name)
    histogram = observed(values)
    found = choose_range(histogram, "percentile", percentile=percentile)
    assert abs(found - plain_percentile(values, percentile)) <= histogram.width


def test_percentile_is_linear_within_a_bin() -> None:
    histogram = observed(np.array([0.1] * 4 + [0.6] * 4), 2)  # bins [0, 0.5) and [0.5, 1)
    found = [choose_range(histogram, "percentile", percentile=p) for p in (25, 50, 62.5, 100)]
    assert found == [0.25, 0.5, 0.6, 0.6]  # 0.625 and 1 lie above the maximum


@pytest.mark.parametrize("name", NAMES)
def test_error_is_that_of_the_samples(name: str) -> None:
    values = samples(name)
    histogram = observed(values)
    for share in (0.02, 0.1, 0.3, 0.7, 1.0, 1.3):
        limit = share * histogram.maximum
        expected = plain_error(values, limit)
        assert quantization_error(histogram, limit) == pytest.approx(expected, rel=0.02)
    assert quantization_error(histogram, 0.5, levels=7) == pytest.approx(
        plain_error(values, 0.5, 7), rel=0.01
    )


def test_error_at_the_extremes() -> None:
    values = samples("normal")
    histogram = observed(values)
    square = float(np.mean(values.astype(np.float64) ** 2))
    for limit in (5e-324, 1e-30, 1e30, 1e308):  # all clipped to nothing; all rounded to 0
        assert quantization_error(histogram, limit) == pytest.approx(square, rel=1e-3)
    assert quantization_error(observed(np.zeros(3)), 0.0) == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_mse_range_is_as_good_as_the_best_of_a_fine_search(name: str) -> None:
    values = samples(name)
    found = choose_range(observed(values), "mse")
    largest = float(np.abs(values).max())
    best = min(plain_error(values, largest * share) for share in np.linspace(0.1, 1, 200))
    assert plain_error(values, found) <= 1.002 * best


@pytest.mark.parametrize(("name", "expected"), [("normal", 3.92), ("laplace", 9.89)])
def test_mse_range_is_the_published_optimum(name: str, expected: float) -> None:
    # Banner et al., Post-training 4-bit quantization of convolution networks, 2019: 8 bits.
    assert choose_range(observed(samples(name, 1_000_000)), "mse") == pytest.approx(
        expected, rel=0.04
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [30, 4000, 50_000])  # of few values, smoothing decides
def test_entropy_is_the_least_plain_divergence(name: str, count: int) -> None:
    values = samples(name, count)
    histogram = observed(values, 512)
    found = choose_range(histogram, "entropy")
    divergences = plain_divergences(values, histogram.width, 128)
    chosen = math.ceil(found / histogram.width)
    assert found == min(chosen * histogram.width, histogram.maximum)
    assert divergences[chosen] <= min(divergences.values()) + 1e-12


def test_entropy_clips_outliers_and_keeps_a_uniform_range() -> None:
    uniform, rectified = observed(samples("uniform")), observed(samples("rectified"))
    assert choose_range(uniform, "entropy") > 0.95 * uniform.maximum
    assert choose_range(rectified, "entropy") < 0.5 * rectified.maximum


def test_entropy_with_few_bins_has_nothing_to_choose() -> None:
    assert choose_range(observed(samples("normal"), 64), "entropy") == choose_range(
        observed(samples("normal")), "max"
    )


@settings(deadline=None, max_examples=60)
@given(hnp.arrays(np.float32, st.integers(1, 60), elements=floats | tame), st.sampled_from(METHODS))
def test_range_is_positive_and_at_most_the_maximum(values: Any, method: Method) -> None:
    histogram = observed(values, 256)
    found = choose_range(histogram, method)
    largest = float(np.abs(values).max())
    assert found == 0 if largest == 0 else 0 < found <= largest
    if largest:
        assert math.isfinite(quantization_error(histogram, found))


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(-8, 8, width=16)),
    st.integers(-60, 60),
    st.sampled_from(METHODS),
)
def test_data_scaled_by_a_power_of_two_scales_the_range(
    values: Any, power: int, method: Method
) -> None:
    first, second = observed(values, 256), observed(np.ldexp(values, power), 256)
    limit = choose_range(first, method)
    assert choose_range(second, method) == math.ldexp(limit, power)
    if limit:
        error = quantization_error(first, limit)
        assert quantization_error(second, math.ldexp(limit, power)) == math.ldexp(error, 2 * power)


@pytest.mark.parametrize("method", METHODS)
def test_a_constant_and_zeros(method: Method) -> None:
    assert choose_range(observed(np.full(9, -0.7)), method) == pytest.approx(0.7, rel=0.002)
    assert choose_range(observed(np.full(9, 1e-300)), method) == 1e-300
    assert choose_range(observed(np.zeros((2, 3))), method) == 0.0
    with pytest.raises(ValueError, match="no values"):
        choose_range(Histogram(), method)


def test_wrong_parameters_are_refused() -> None:
    histogram = observed([1.0])
    with pytest.raises(ValueError, match="unknown method"):
        choose_range(histogram, "median")  # type: ignore[arg-type]
    for percentile in (0.0, 100.1, math.nan):
        with pytest.raises(ValueError, match="percentile"):
            choose_range(histogram, "max", percentile=percentile)
    for limit in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="limit"):
            quantization_error(histogram, limit)
    with pytest.raises(ValueError, match="levels"):
        quantization_error(histogram, 1.0, levels=0)
    with pytest.raises(ValueError, match="no values"):
        quantization_error(Histogram(), 1.0)


# The weights.


def test_weight_scales_are_per_channel() -> None:
    weights = samples("normal", 6 * 4 * 9).reshape(6, 4, 3, 3)
    weights[2] = 0
    scales = weight_scales(weights)
    assert (scales.dtype, scales.shape) == (np.float32, (6,))
    expected = plain_weight_scales(weights)
    assert expected[2] == 0
    expected[2] = ZERO_CHANNEL_SCALE
    np.testing.assert_array_equal(scales, np.array(expected, np.float32))
    levels = np.rint(weights / scales[:, None, None, None])
    assert np.abs(levels).reshape(6, -1).max(axis=1).tolist() == [127, 127, 0, 127, 127, 127]
    np.testing.assert_array_equal(weight_scales(weights[:, 0, 0]), weight_scales(weights[:, 0, :1]))


def test_weight_scales_are_normal_numbers() -> None:
    scales = weight_scales(np.array([[1e-45], [3.4e38], [0.0], [-0.0]], np.float32))
    assert scales.tolist() == [
        2.0**-126,
        float(np.float32(3.4e38) / np.float32(127)),
        2**-14,
        2**-14,
    ]
    assert np.float16(scales[2]) >= np.finfo(np.float16).smallest_normal
    assert weight_scales(np.zeros((0, 3), np.float32)).shape == (0,)


@pytest.mark.parametrize(
    "weights",
    [0.5, np.zeros((2, 0)), np.zeros((2, 2), np.int8), [[math.nan]], [[-math.inf]], [[1e39]]],
)
def test_wrong_weights_are_refused(weights: Any) -> None:
    with pytest.raises(ValueError, match="weights"):
        weight_scales(np.asarray(weights))

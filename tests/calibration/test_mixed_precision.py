"""Which layers stay in float: the search against trying every set."""

from __future__ import annotations

import math
from itertools import chain, combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solo_edge.calibration.layers import LayerNoise
from solo_edge.calibration.mixed_precision import cheapest_exclusions, exclusion_order


def layer(name, cost, noise):
    return LayerNoise(name, cost, {"category_scores": noise})


def cost_of(layers, chosen):
    return sum(each.multiply_adds for each in layers if each.layer in chosen)


LAYERS = [layer("a", 100, 1.0), layer("b", 1, 0.5), layer("c", 10, 0.1), layer("d", 50, 0.0)]


def test_noise_for_its_work_decides_about_the_order():
    assert [each.layer for each in exclusion_order(LAYERS)] == ["b", "a", "c", "d"]


def test_the_shortest_good_beginning_without_what_it_does_not_need():
    # The guilty one is "c", the third: of the two before it neither is needed.
    asked = []

    def is_good(excluded):
        asked.append(excluded)
        return "c" in excluded

    assert cheapest_exclusions(LAYERS, is_good, max_float_share=0.9) == {"c"}
    assert len(asked) == len(set(asked))
    assert frozenset() not in asked


def test_nothing_is_found_where_half_of_the_work_in_float_does_not_help():
    assert cheapest_exclusions(LAYERS, lambda excluded: False) is None
    # "a" alone is more than half of the work.
    assert cheapest_exclusions(LAYERS, lambda excluded: "a" in excluded) is None
    assert cheapest_exclusions([layer("a", 1, 1.0)], lambda excluded: True) is None


@given(
    st.lists(
        st.tuples(st.integers(1, 50), st.floats(0.001, 10)), min_size=1, max_size=7, unique=True
    ),
    st.floats(0.05, 0.95),
)
def test_where_noises_add_up_the_result_is_good_allowed_and_near_the_best(numbers, budget):
    layers = [layer(f"l{i}", cost, noise) for i, (cost, noise) in enumerate(numbers)]
    total = sum(each.total for each in layers)
    questions = 0

    def is_good(excluded):
        nonlocal questions
        questions += 1
        rest = sum(each.total for each in layers if each.layer not in excluded)
        return rest <= budget * total

    found = cheapest_exclusions(layers, is_good, max_float_share=1.0)
    assert questions <= math.ceil(math.log2(len(layers) + 1)) + 7
    assert found is not None
    assert is_good(found)
    names = [each.layer for each in layers]
    every = chain.from_iterable(combinations(names, n) for n in range(1, len(names) + 1))
    best = min(cost_of(layers, each) for each in every if is_good(frozenset(each)))
    # The greedy order is exact but for its last layer.
    assert cost_of(layers, found) <= best + max(each.multiply_adds for each in layers)


def test_the_share_is_kept():
    layers = [layer(f"l{i}", 10, 1.0) for i in range(10)]
    found = cheapest_exclusions(layers, lambda excluded: len(excluded) >= 5)
    assert found is not None
    assert len(found) == 5
    assert cheapest_exclusions(layers, lambda excluded: len(excluded) >= 6) is None


def test_decibels_of_noise():
    assert layer("a", 1, 0.01).sqnr_db == {"category_scores": pytest.approx(20.0)}
    assert layer("a", 1, 0.0).sqnr_db == {"category_scores": math.inf}
    assert LayerNoise("model.head.kernel_convs.0.conv.weight", 1, {}).short_name == (
        "head.kernel_convs.0.conv"
    )

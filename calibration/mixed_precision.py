"""Which layers to leave in floating point so that the rest may be INT8."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

from solo_edge.calibration.layers import LayerNoise

__all__ = ["MAX_FLOAT_SHARE", "cheapest_exclusions", "exclusion_order"]

# Of the multiply-adds. With more of them in float, an engine is no INT8 engine any more.
MAX_FLOAT_SHARE = 0.5
PRUNING_TRIES = 6  # each costs an evaluation


def exclusion_order(layers: Sequence[LayerNoise]) -> list[LayerNoise]:
    """The layers whose exclusion removes the most noise for each multiply-add first.

    To stay below a noise with the least work in float is a knapsack; noise over cost is its greedy
    order. It is exact but for the last layer, as far as the layers' noises add up.
    """
    return sorted(layers, key=lambda each: (-each.total / max(each.multiply_adds, 1), each.layer))


def cheapest_exclusions(
    layers: Sequence[LayerNoise],
    is_good: Callable[[frozenset[str]], bool],
    *,
    max_float_share: float = MAX_FLOAT_SHARE,
) -> frozenset[str] | None:
    """A cheap set of layers without which INT8 is good enough, where without any it is not.

    The shortest good beginning of `exclusion_order`, by bisection; then its dearest members are put
    back one by one where that stays good, since what counts is not the noise but the accuracy.

    Args:
        layers: all that could become INT8.
        is_good: decides about a set of excluded layers; slow: it is asked at most
            ceil(log2(len(layers))) + 7 times, and never twice about the same set.
        max_float_share: how much of the multiply-adds may stay in float.

    Returns:
        None if even the longest allowed beginning is not good enough.
    """
    order = exclusion_order(layers)
    allowed = max_float_share * sum(each.multiply_adds for each in order)
    spent = accumulate(each.multiply_adds for each in order)
    good, bad = sum(1 for cost in spent if cost <= allowed), 0

    def beginning(length: int) -> frozenset[str]:
        return frozenset(each.layer for each in order[:length])

    if good == 0 or not is_good(beginning(good)):
        return None
    while good - bad > 1:
        middle = (bad + good) // 2
        if is_good(beginning(middle)):
            good = middle
        else:
            bad = middle
    chosen = beginning(good)
    # Without the last one it is a beginning that was not good.
    dearest = sorted(order[: good - 1], key=lambda each: (-each.multiply_adds, each.layer))
    for each in dearest[:PRUNING_TRIES]:
        if is_good(chosen - {each.layer}):
            chosen -= {each.layer}
    return chosen

"""IDF1 and CLEAR MOT of small films whose numbers can be counted by hand."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from solo_edge.tracking import IdentityMetrics, IdentityScores


def scores(*frames: tuple[dict[int, str], dict[int, str]]) -> IdentityScores:
    """Of frames in which objects and reported tracks are at named places: same place, same thing."""
    metrics = IdentityMetrics()
    for truth, reported in frames:
        iou = [[float(there == here) for here in reported.values()] for there in truth.values()]
        metrics.add(
            np.array(list(truth)), np.array(list(reported)),
            np.array(iou).reshape(len(truth), len(reported)),
        )  # fmt: skip
    return metrics.scores()


def test_all_right():
    found = scores(*[({1: "a", 2: "b"}, {7: "a", 9: "b"})] * 5)
    assert found == IdentityScores(1.0, 1.0, 1.0, 1.0, 0, 0, 0, 10, 10)


def test_one_object_under_two_ids():
    # The longer part, 6 of 10 frames, is explained by one id; the other 4 count twice as wrong.
    found = scores(*[({1: "a"}, {7: "a"})] * 6, *[({1: "a"}, {8: "a"})] * 4)
    assert (found.idf1, found.idp, found.idr) == (0.6, 0.6, 0.6)
    assert (found.switches, found.mota) == (1, 0.9)


def test_two_objects_that_swap_their_ids():
    before, after = ({1: "a", 2: "b"}, {7: "a", 8: "b"}), ({1: "a", 2: "b"}, {8: "a", 7: "b"})
    found = scores(*[before] * 5, *[after] * 5)
    assert found.idf1 == 0.5
    assert found.switches == 2
    assert found.mota == pytest.approx(1 - 2 / 20)


def test_misses_and_false_positives():
    found = scores(({1: "a"}, {}), ({1: "a"}, {7: "a", 8: "x"}), ({}, {7: "a"}), ({}, {}))
    assert (found.misses, found.false_positives, found.switches) == (1, 2, 0)
    assert (found.objects, found.reported) == (2, 3)
    assert found.mota == 1 - 3 / 2
    assert (found.idp, found.idr, found.idf1) == (1 / 3, 1 / 2, 2 / 5)


def test_a_gap_under_the_same_id_is_no_switch_and_another_id_after_it_is():
    gap = ({1: "a"}, {})
    assert scores(({1: "a"}, {7: "a"}), gap, ({1: "a"}, {7: "a"})).switches == 0
    assert scores(({1: "a"}, {7: "a"}), gap, ({1: "a"}, {8: "a"})).switches == 1


def test_who_was_followed_stays_followed_though_another_overlaps_more():
    metrics = IdentityMetrics()
    metrics.add(np.array([1]), np.array([7]), np.array([[0.6]]))
    metrics.add(np.array([1]), np.array([7, 8]), np.array([[0.5, 0.9]]))
    assert metrics.scores().switches == 0


def test_overlap_below_one_half_is_none():
    metrics = IdentityMetrics()
    metrics.add(np.array([1]), np.array([7]), np.array([[0.49]]))
    assert (metrics.scores().misses, metrics.scores().idf1) == (1, 0.0)


def test_nothing_at_all():
    assert IdentityMetrics().scores() == IdentityScores(0.0, 0.0, 0.0, 0.0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("seed", range(20))
def test_idf1_is_that_of_the_best_of_all_assignments(seed):
    rng = np.random.default_rng(seed)
    metrics = IdentityMetrics()
    together = np.zeros((4, 4))
    for _ in range(30):
        iou = np.eye(4)[rng.permutation(4)] if rng.random() < 0.7 else np.eye(4)
        together += iou
        metrics.add(np.arange(4), np.arange(4), iou)
    best = max(sum(together[k, p] for k, p in enumerate(way)) for way in permutations(range(4)))
    assert metrics.scores().idf1 == pytest.approx(best / 120)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="iou must be"):
        IdentityMetrics().add(np.array([1]), np.array([1, 2]), np.ones((2, 1)))
    with pytest.raises(ValueError, match="twice"):
        IdentityMetrics().add(np.array([1, 1]), np.array([1]), np.ones((2, 1)))

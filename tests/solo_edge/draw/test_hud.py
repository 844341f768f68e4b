from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from solo_edge.draw import Hud, draw_hud, draw_waiting

FULL = Hud(
    source="front door",
    state="playing",
    fps=29.83,
    latency_ms=41.2,
    stage_ms={"capture": 1.2, "preprocess": 3.1, "network": 22.4, "finish": 5.2, "draw": 4.4},
    dropped=3,
    instances=12,
)
SIZES = [(1, 1), (16, 16), (5, 900), (900, 5), (480, 640), (720, 1280), (1080, 1920)]


def changed(image, drawn):
    return (drawn != image).any(axis=-1)


def test_the_panel_is_in_the_upper_left_corner(gray):
    for size in ((480, 640), (720, 1280), (1080, 1920)):
        image = gray(size)
        drawn = draw_hud(image, FULL)
        rows, columns = np.nonzero(changed(image, drawn))
        assert rows.max() < size[0] / 4
        assert columns.max() < size[1] / 2
        assert drawn.max() > 240  # letters
        assert (image == 100).all()


@pytest.mark.parametrize("size", SIZES)
def test_any_size_is_fine(size, gray):
    assert draw_hud(gray(size), FULL).shape == (*size, 3)
    assert draw_waiting(gray(size), "front door: no frames for 3 s").shape == (*size, 3)


@pytest.mark.parametrize(
    "change",
    [
        {"source": "back door"},
        {"state": "waiting"},
        {"state": "waiting", "reason": "stalled"},
        {"fps": 29.9},
        {"latency_ms": 42.2},
        {"stage_ms": {**FULL.stage_ms, "network": 23.4}},
        {"dropped": 4},
        {"instances": 11},
    ],
)
def test_everything_is_shown(change, gray):
    image = gray((480, 640))
    other = draw_hud(image, dataclasses.replace(FULL, **change))
    assert changed(draw_hud(image, FULL), other).any()


def test_nothing_known_is_a_small_panel(gray):
    image = gray((480, 640))
    small, large = (changed(image, draw_hud(image, hud)).sum() for hud in (Hud(), FULL))
    assert 0 < small < large / 3


def test_states_differ_without_color(gray):
    """In their words and in the shape of their signs."""
    from solo_edge.video.states import SourceState

    image = gray((480, 640))
    panels = [
        draw_hud(image, Hud(source="x", state=state.value)).max(axis=-1) for state in SourceState
    ]
    signs = [panel[:28, 6:26] > 120 for panel in panels]
    for i in range(len(panels)):
        for j in range(i):
            assert (panels[i] != panels[j]).any()
            assert (signs[i] != signs[j]).mean() > 0.02


def test_an_unknown_state_is_written_too(gray):
    image = gray((480, 640))
    assert changed(draw_hud(image, Hud(state="a")), draw_hud(image, Hud(state="b"))).any()


def test_parts_of_the_bar_are_in_proportion(gray):
    image = gray((720, 1280))
    drawn = draw_hud(image, Hud(stage_ms={"a": 10.0, "none": 0.0, "b": 30.0}))
    lengths = []
    for color in ((86, 180, 233), (230, 159, 0)):
        lengths.append(max((drawn == color).all(axis=-1).sum(axis=1)))
    assert abs(lengths[1] / lengths[0] - 3) < 0.2


def test_in_place_gives_the_same(gray):
    for draw, what in ((draw_hud, FULL), (draw_waiting, "no frames")):
        image = gray((480, 640))
        want = draw(image, what)
        assert draw(image, what, out=image) is image
        np.testing.assert_array_equal(image, want)


def test_waiting_is_dim_with_a_banner(gray):
    drawn = draw_waiting(gray((480, 640)), "front door: no frames for 3 s, trying again in 2 s")
    assert (drawn[:150] == 35).all()
    assert (drawn[-150:] == 35).all()
    rows = np.nonzero(changed(np.full_like(drawn, 35), drawn))[0]
    assert abs((rows.min() + rows.max()) / 2 - 240) < 3
    assert drawn[200:280].max() > 240


def test_a_long_text_is_broken_between_words_and_then_cut(gray):
    heights = []
    for count in (1, 12, 20, 200):
        drawn = draw_waiting(gray((480, 640)), " ".join(["waiting"] * count))
        rows, columns = np.nonzero(changed(np.full_like(drawn, 35), drawn))
        heights.append(int(np.ptp(rows)))
        assert np.ptp(columns) < 640
    assert heights[0] < heights[1] < heights[2] == heights[3]
    one_word = draw_waiting(gray((480, 640)), "x" * 500)
    assert one_word.shape == (480, 640, 3)
    assert draw_waiting(gray((480, 640)), "").shape == (480, 640, 3)

from __future__ import annotations

import numpy as np
import pytest

from solo_edge.draw.text import cut_text, line, line_height, number, stamp


@pytest.mark.parametrize("size", [11, 14, 20, 40])
def test_all_pieces_of_a_size_are_equally_high(size):
    texts = [cut_text(text, size) for text in ("", "g", "Åj|", "苹果", "…")]
    assert {text.shape[0] for text in (*texts, number("0.5", size))} == {line_height(size)}


@pytest.mark.parametrize("size", [11, 12, 14, 19, 27, 40])
def test_digits_are_equally_wide(size):
    assert len({number(digit, size).shape[1] for digit in "0123456789"}) == 1


@pytest.mark.parametrize("width", [0, 3, 20, 50, 70, 71, 200])
def test_cut_text_is_as_long_as_fits(width):
    text = "traffic light"
    cut = cut_text(text, 14, width)
    assert cut.shape[1] <= width
    whole = cut_text(text, 14)
    if whole.shape[1] <= width:
        np.testing.assert_array_equal(cut, whole)
    elif width >= 20:
        longest = max(
            cut_text(text[:end].rstrip() + "…", 14).shape[1]
            for end in range(1, len(text))
            if cut_text(text[:end].rstrip() + "…", 14).shape[1] <= width
        )
        assert cut.shape[1] == longest


def test_stamp_mixes_two_colors():
    output = np.zeros((50, 80, 3), dtype=np.uint8)
    text = line(cut_text("Hi", 14))
    stamp(output, 5, 9, text, (10, 200, 30), (250, 0, 90))
    part = output[5 : 5 + text.shape[0], 9 : 9 + text.shape[1]]
    share = text[:, :, None] / 255
    want = np.array([10, 200, 30]) * (1 - share) + np.array([250, 0, 90]) * share
    np.testing.assert_allclose(part, want, atol=0.501)
    part[:] = 0
    assert not output.any()

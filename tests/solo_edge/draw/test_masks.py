from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solo_edge.draw import draw_instances, instance_colors
from solo_edge.draw.masks import outline_width
from solo_edge.draw.palette import PALETTE
from solo_edge.instances import Instances, LazyMasks
from solo_edge.preprocess import Geometry

GRAY = 100
COLORS = PALETTE.astype(float)


def drawn_plainly(image, instances, alpha):
    """What `draw_instances` draws without labels, pixel by pixel as its documentation says."""
    best = np.full(instances.image_size, -1)
    for i in reversed(range(len(instances))):
        best[instances.masks[i]] = i
    thickness = outline_width(instances.image_size)
    result = image.astype(float)
    colors = instance_colors(instances).astype(float)
    for y, x in np.argwhere(best >= 0):
        window = best[
            max(y - thickness, 0) : y + thickness + 1, max(x - thickness, 0) : x + thickness + 1
        ]
        color = colors[best[y, x]]
        on_outline = (window != best[y, x]).any()
        result[y, x] = color if on_outline else (1 - alpha) * result[y, x] + alpha * color
    return result


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(st.integers(1, 120), st.integers(1, 90)),
    st.integers(0, 6),
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    st.integers(0, 2**31),
)
def test_equals_a_plain_loop_over_the_pixels(size, count, alpha, seed):
    rng = np.random.default_rng(seed)
    noise = rng.random((count, *size), dtype=np.float32)
    # Holes, islands and single pixels in some of them.
    masks = np.array([cv2.blur(n, (1 + 4 * (i % 3),) * 2) > 0.5 for i, n in enumerate(noise)])
    found = Instances(
        np.linspace(0.9, 0.3, count),
        rng.integers(0, 80, count),
        masks.reshape(count, *size).astype(bool),
        class_names=[str(i) for i in range(80)],
        image_size=size,
    )
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    drawn = draw_instances(image, found, alpha=alpha, labels=False)
    np.testing.assert_allclose(drawn, drawn_plainly(image, found, alpha), atol=0.501)


def test_bands_join_without_a_seam(make):
    """Objects that reach over many bands, in an image high enough for an outline of three pixels."""
    size = (1300, 1290)
    found = make(size, [(100, 3, 700, 1297), (500, 60, 1290, 80), (0, 0, 40, 40)], [0, 1, 2])
    assert outline_width(size) == 3
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    drawn = draw_instances(image, found, labels=False)
    rank = np.zeros(size, dtype=np.uint8)
    for i in (2, 1, 0):
        rank[found.masks[i]] = i + 1
    window = np.ones((7, 7), dtype=np.uint8)
    outline = (cv2.morphologyEx(rank, cv2.MORPH_GRADIENT, window) > 0) & (rank > 0)
    colors = np.concatenate([np.zeros((1, 3)), COLORS[:3]])[rank]
    inside = (rank > 0)[:, :, None]
    want = np.where(inside, (image + colors) / 2, image)
    want = np.where(outline[:, :, None], colors, want)
    np.testing.assert_allclose(drawn, want, atol=0.501)


def test_tint_and_outline_are_where_the_mask_is(make, gray):
    image = gray((60, 80))
    found = make((60, 80), [(10, 20, 50, 40)])
    drawn = draw_instances(image, found, labels=False)
    assert drawn.dtype == np.uint8
    assert (drawn[~found.masks[0]] == GRAY).all()
    np.testing.assert_allclose(drawn[30, 30], (GRAY + COLORS[0]) / 2, atol=1)
    for y, x in ((20, 30), (39, 30), (30, 10), (30, 49)):  # just inside each border
        np.testing.assert_array_equal(drawn[y, x], PALETTE[0])
    assert (image == GRAY).all()


def test_the_border_of_the_image_is_no_outline(make, gray):
    drawn = draw_instances(gray((60, 80)), make((60, 80), [(0, 0, 80, 60)]), labels=False)
    np.testing.assert_allclose(drawn, np.broadcast_to((GRAY + COLORS[0]) / 2, drawn.shape), atol=1)


def test_the_better_of_two_is_in_front(make, gray):
    found = make((60, 80), [(0, 0, 40, 40), (20, 20, 70, 60)], [0, 1])
    drawn = draw_instances(gray((60, 80)), found, labels=False)
    np.testing.assert_allclose(drawn[30, 30], (GRAY + COLORS[0]) / 2, atol=1)
    np.testing.assert_allclose(drawn[50, 50], (GRAY + COLORS[1]) / 2, atol=1)


def test_nothing_found_gives_a_copy(make, gray):
    image = gray((20, 30))
    drawn = draw_instances(image, make((20, 30), []))
    assert (drawn == image).all()
    assert drawn is not image


def test_an_empty_mask_draws_nothing(make, gray):
    found = make((60, 80), [(5, 5, 5, 5)])
    assert (draw_instances(gray((60, 80)), found) == GRAY).all()


def test_lazy_masks_look_like_ready_ones(make, gray):
    y, x = np.mgrid[:16, :20]
    centres = [(4, 5), (9, 12), (14, 3)]
    blobs = [np.exp(-np.hypot(y - a, x - b) / 3) for a, b in centres]
    probabilities = np.array(blobs, dtype=np.float32)
    lazy = LazyMasks(probabilities, Geometry((90, 131), (55, 80), (64, 80)), 0.4)
    first = make((90, 131), centres, [0, 1, 0], masks=lazy)
    second = make((90, 131), centres, [0, 1, 0], masks=lazy.render())
    image = gray((90, 131))
    np.testing.assert_array_equal(draw_instances(image, first), draw_instances(image, second))


def test_more_instances_than_a_byte_counts(make, gray):
    boxes = [(x, y, x + 3, y + 3) for y in range(0, 80, 4) for x in range(0, 80, 4)]
    assert len(boxes) > 255
    labels = np.arange(len(boxes)) % 5
    drawn = draw_instances(gray((80, 80)), make((80, 80), boxes, labels), labels=False)
    for (x, y, _, _), label in zip(boxes, labels, strict=True):
        np.testing.assert_allclose(drawn[y + 1, x + 1], (GRAY + COLORS[label]) / 2, atol=1)


@pytest.mark.parametrize(
    "size", [(1, 1), (8, 8), (20, 30), (64, 64), (5, 900), (900, 5), (720, 1280)]
)
def test_any_size_is_fine(size, make, gray):
    height, width = size
    boxes = [(0, 0, width, height), (width // 2, height // 2, width, height), (0, 0, 1, 1)]
    assert draw_instances(gray(size), make(size, boxes, [1, 2, 3])).shape == (*size, 3)


def test_in_place_gives_the_same(make, gray):
    found = make((60, 80), [(10, 20, 50, 40)])
    image, other = gray((60, 80)), np.zeros((60, 80, 3), dtype=np.uint8)
    want = draw_instances(image, found)
    assert draw_instances(image, found, out=other) is other
    assert (image == GRAY).all()
    assert draw_instances(image, found, out=image) is image
    np.testing.assert_array_equal(other, want)
    np.testing.assert_array_equal(image, want)


def test_rows_with_gaps_between_are_fine(make, gray):
    """A part of a larger picture, as a grid of cameras has them, from an image that is one itself."""
    found = make((60, 80), [(10, 20, 50, 40), (30, 0, 80, 60)])
    grid, source = np.zeros((60, 200, 3), dtype=np.uint8), np.full((60, 99, 3), GRAY, np.uint8)
    draw_instances(source[:, 5:85], found, out=grid[:, 100:180])
    np.testing.assert_array_equal(grid[:, 100:180], draw_instances(gray((60, 80)), found))
    assert not grid[:, :100].any()
    assert not grid[:, 180:].any()


def test_what_does_not_fit_is_refused(make, gray):
    found = make((20, 10), [(0, 0, 5, 5)])
    with pytest.raises(ValueError, match="image must be"):
        draw_instances(gray((10, 10)), found)
    with pytest.raises(ValueError, match="image must be"):
        draw_instances(gray((20, 10)).astype(float), found)
    locked = gray((20, 10))
    locked.flags.writeable = False
    for out in (gray((20, 11)), gray((20, 10)).astype(float), locked):
        with pytest.raises(ValueError, match="out must be"):
            draw_instances(gray((20, 10)), found, out=out)
    with pytest.raises(ValueError, match="side by side"):
        draw_instances(gray((20, 10)), found, out=gray((20, 20))[:, ::2])

from __future__ import annotations

import itertools

import numpy as np

from solo_edge.draw import draw_instances
from solo_edge.draw.labels import Rectangle, make_label, place


def labels_of(image, found):
    """[H, W]: where a label changed the picture."""
    plain = draw_instances(image, found, labels=False)
    return (plain != draw_instances(image, found)).any(axis=-1)


def test_labels_are_written_above_the_middle_of_their_box(make, gray):
    changed = labels_of(gray((200, 300)), make((200, 300), [(100, 80, 200, 160)]))
    rows, columns = np.nonzero(changed)
    assert 60 < rows.min() < rows.max() < 80
    assert abs((columns.min() + columns.max()) / 2 - 150) <= 1
    drawn = draw_instances(gray((200, 300)), make((200, 300), [(100, 80, 200, 160)]))
    plate = drawn[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    dark = (plate.max(axis=-1) < 60).mean()
    assert 0.05 < dark < 0.5  # black letters on the plate


def test_labels_stay_inside_and_apart():
    size = (120, 160)
    boxes = [
        (0, 0, 160, 120),
        (150, 0, 160, 10),
        (0, 110, 10, 120),
        (5, 1, 9, 119),
        (60, 50, 70, 60),
    ]
    taken = []
    for box in boxes:
        spot = place(box, (16, 50), size, taken)
        assert 0 <= spot.left < spot.right <= 160
        assert 0 <= spot.top < spot.bottom <= 120
        taken.append(spot)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(taken, 2))


def test_a_label_without_room_is_left_out():
    everywhere = [Rectangle(0, 0, 80, 60)]
    assert place((10, 20, 50, 40), (12, 30), (60, 80), everywhere) is None


def test_a_crowd_of_small_objects_has_no_labels(make, gray):
    size = (200, 200)
    boxes = [(x, y, x + 12, y + 12) for x in range(4, 190, 36) for y in range(4, 190, 36)]
    assert not labels_of(gray(size), make(size, boxes)).any()
    assert labels_of(gray(size), make(size, boxes[:3])).any()
    large = make(size, [*boxes, (0, 0, 200, 200)])  # a label fits on this one
    assert labels_of(gray(size), large).any()


def test_what_better_ones_hide_has_no_label(make, gray):
    size, front = (200, 300), (100, 80, 200, 160)
    alone = labels_of(gray(size), make(size, [front]))
    for behind, labelled in (
        (front, False),
        ((110, 90, 190, 150), False),
        ((100, 80, 290, 160), True),
    ):
        both = labels_of(gray(size), make(size, [front, behind], [0, 1]))
        assert (both != alone).any() == labelled


def test_in_a_crowd_labels_lose_the_score_before_the_name_and_keep_the_track_longest(make, gray):
    size = (400, 900)
    small = [(x, 300, x + 6, 306) for x in range(5, 800, 80)]
    widths = []
    for side in (6, 50, 70, 200):
        box = (700, 100, 700 + side // 2, 100 + side)
        found = make(size, [box, *small], track_ids=np.arange(1, 12))
        _, columns = np.nonzero(labels_of(gray(size), found)[:210])
        widths.append(int(np.ptp(columns)) + 1 if columns.size else 0)
    nothing, track, name, everything = widths
    assert nothing == 0 < track < name < everything


def test_tracked_instances_show_their_number_and_unsure_ones_none(make, gray):
    size, box = (200, 300), (100, 80, 200, 160)
    widths = [
        int(labels_of(gray(size), make(size, [box], track_ids=ids)).any(axis=0).sum())
        for ids in (None, [0], [7], [1234])
    ]
    assert widths[0] == widths[1] < widths[2] < widths[3]


def test_a_label_does_not_move_with_its_score(make, gray):
    """Digits are equally wide."""
    found = make((200, 300), [(100, 80, 200, 160)])
    seen = set()
    for score in (0.11, 0.48, 0.90):
        found.scores[0] = score
        _, columns = np.nonzero(labels_of(gray((200, 300)), found))
        seen.add((int(columns.min()), int(columns.max())))
    assert len(seen) == 1


def test_rectangles_that_touch_do_not_overlap():
    a = Rectangle(0, 0, 10, 10)
    assert not a.overlaps(Rectangle(10, 0, 20, 10))
    assert not a.overlaps(Rectangle(0, 10, 10, 20))
    assert a.overlaps(Rectangle(9, 9, 20, 20))


def test_long_names_are_cut_but_their_score_is_kept():
    whole = make_label("motorcycle", " 0.87", 14, (100, 1000))
    cut = make_label("motorcycle", " 0.87", 14, (100, 70))
    assert cut.shape[1] <= 70 < whole.shape[1]
    tail = make_label("", " 0.87", 14, (100, 1000))
    np.testing.assert_array_equal(cut[:, -20:], tail[:, -20:])
    assert make_label("motorcycle", " 0.87", 14, (100, 10)) is None
    assert make_label("motorcycle", " 0.87", 14, (10, 1000)) is None


def test_names_in_other_alphabets_and_with_control_characters():
    for name in ("Äpfel", "苹果", "a\nb\x00", "", "…"):
        label = make_label(name, " 0.87", 14, (100, 1000))
        assert label.shape[0] < 40
        assert label.max() > 200

from __future__ import annotations

import sys

import numpy as np
import pytest

from solo_edge.errors import ResourceError

BOXES = [(10, 20, 50, 40), (30, 5, 70, 55)]


def test_detections_hold_the_same(make):
    pytest.importorskip("supervision")
    found = make((60, 80), BOXES, [2, 1], track_ids=[7, 0])
    detections = found.to_supervision()
    np.testing.assert_array_equal(detections.xyxy, BOXES)
    np.testing.assert_array_equal(detections.mask, found.masks)
    np.testing.assert_array_equal(detections.confidence, found.scores)
    np.testing.assert_array_equal(detections.class_id, [2, 1])
    np.testing.assert_array_equal(detections.tracker_id, [7, 0])
    assert detections["class_name"].tolist() == ["Äpfel", "traffic light"]
    assert make((60, 80), BOXES).to_supervision().tracker_id is None


def test_nothing_found(make):
    pytest.importorskip("supervision")
    detections = make((60, 80), []).to_supervision()
    assert len(detections) == 0
    assert detections.is_empty()


def test_its_annotators_draw_where_ours_do(make, gray):
    supervision = pytest.importorskip("supervision")
    found = make((60, 80), BOXES[:1])
    color = supervision.Color(255, 0, 0)
    boxes = supervision.BoxAnnotator(color=color, thickness=1)
    drawn = boxes.annotate(gray((60, 80)), found.to_supervision())
    rows, columns = np.nonzero((drawn != 100).any(axis=-1))
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == BOXES[0]
    masks = supervision.MaskAnnotator(color=color)
    drawn = masks.annotate(gray((60, 80)), found.to_supervision())
    np.testing.assert_array_equal((drawn != 100).any(axis=-1), found.masks[0])


def test_without_the_package_the_error_says_how_to_get_it(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ResourceError, match="pip install supervision"):
        make((60, 80), BOXES).to_supervision()

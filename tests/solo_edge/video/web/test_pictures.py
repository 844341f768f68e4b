from __future__ import annotations

import json
import struct

import cv2
import numpy as np
import pytest

from solo_edge.draw import Shape, instance_colors
from solo_edge.instances import Instances, Region
from solo_edge.video.base import Frame
from solo_edge.video.clock import now
from solo_edge.video.result import ProcessedFrame
from solo_edge.video.web.board import Shown
from solo_edge.video.web.pictures import MOST_OUTLINES, Pictures, trace


def taken_apart(packet: bytes):
    """The header and the picture [H, W, 3] RGB of a packet."""
    (length,) = struct.unpack_from("<I", packet)
    header = json.loads(packet[4 : 4 + length])
    jpeg = np.frombuffer(packet[4 + length :], np.uint8)
    return header, cv2.cvtColor(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def filled(outlines, size):
    """What a browser fills by the even-odd rule, with the outline itself."""
    mask = np.zeros(size, np.uint8)
    cv2.fillPoly(mask, outlines, 1)  # even-odd, borders included
    return mask.astype(bool)


def one(mask, **more):
    return Instances(
        np.array([0.9]), np.array([1]), mask[None], class_names=("a", "b"), image_size=mask.shape,
        **more,
    )  # fmt: skip


def test_a_packet_says_what_is_in_the_frame(scenes):
    result = scenes.result(2)
    header, picture = taken_apart(Pictures().packet(Shown(7, result), "full"))
    assert picture.shape == result.frame.image.shape
    assert np.abs(picture.astype(int) - result.frame.image).mean() < 4
    assert (header["source"], header["serial"], header["index"]) == (0, 7, 2)
    assert header["size"] == list(result.frame.image.shape[:2])
    assert header["stage_ms"] == result.stage_ms
    assert header["age_ms"] >= 0
    found = header["instances"]
    assert [item["label"] for item in found] == result.instances.labels.tolist()
    assert [item["score"] for item in found] == pytest.approx(result.instances.scores, abs=1e-4)
    assert [item["color"] for item in found] == instance_colors(result.instances).tolist()
    assert [item["box"] for item in found] == result.instances.boxes.astype(int).tolist()
    assert all(item["track"] is None for item in found)


def test_outlines_are_the_masks(scenes):
    instances = scenes.result(0).instances
    for mask in instances.masks:
        _, outlines = trace(Region(0, 0, mask), instances.image_size)
        drawn = filled(outlines, instances.image_size)
        inside, union = np.count_nonzero(drawn & mask), np.count_nonzero(drawn | mask)
        # A simplified border may leave the mask by less than a pixel.
        border = np.count_nonzero(mask) - np.count_nonzero(cv2.erode(mask.view(np.uint8), None))
        assert union - inside <= border


def test_holes_stay_holes():
    mask = np.zeros((60, 80), bool)
    mask[10:50, 10:70] = True
    mask[20:40, 30:50] = False
    box, outlines = trace(Region(0, 0, mask), mask.shape)
    assert box == (10, 10, 70, 50)
    assert len(outlines) == 2
    assert not filled(outlines, mask.shape)[30, 40]


def test_regions_are_moved_to_their_place():
    box, outlines = trace(Region(100, 200, np.ones((5, 9), bool)), (720, 1280))
    assert box == (200, 100, 209, 105)
    assert outlines[0].min(axis=0).tolist() == [200, 100]


def test_noise_does_not_make_a_long_message():
    noise = np.random.default_rng(1).random((300, 300)) > 0.7
    assert len(trace(Region(0, 0, noise), noise.shape).outlines) == MOST_OUTLINES


@pytest.mark.parametrize("shape", [(0, 0), (8, 8)])
def test_an_empty_mask_has_no_outline(shape):
    assert trace(Region(3, 4, np.zeros(shape, bool)), (720, 1280)) == ((0, 0, 0, 0), [])


def test_small_pictures_keep_the_coordinates_of_the_frame():
    mask = np.zeros((720, 1280), bool)
    mask[100:200, 300:500] = True
    frame = Frame(np.zeros((720, 1280, 3), np.uint8), 0, 0.0, now())
    header, picture = taken_apart(
        Pictures().packet(Shown(1, ProcessedFrame(0, "a", frame, one(mask))), "small")
    )
    assert picture.shape == (360, 640, 3)
    assert header["size"] == [720, 1280]
    assert header["instances"][0]["box"] == [300, 100, 500, 200]


def test_tracks_have_their_numbers_and_colors():
    mask = np.ones((8, 8), bool)
    tracked = one(mask, track_ids=np.array([5]))
    frame = Frame(np.zeros((8, 8, 3), np.uint8), 0, 0.0)
    header, _ = taken_apart(
        Pictures().packet(Shown(1, ProcessedFrame(0, "a", frame, tracked)), "full")
    )
    assert header["instances"][0]["track"] == 5
    assert header["instances"][0]["color"] == instance_colors(tracked)[0].tolist()
    assert header["age_ms"] is None


def test_outlines_are_found_once_for_all_qualities(scenes, monkeypatch):
    calls = []
    from solo_edge.video.web import pictures as module

    monkeypatch.setattr(module, "trace", lambda *given: calls.append(1) or trace(*given))
    pictures, shown = Pictures(), Shown(1, scenes.result(0))
    pictures.packet(shown, "full")
    pictures.packet(shown, "small")
    assert len(calls) == len(shown.result.instances)


def test_drawn_pictures_are_the_overlay_if_there_is_one(scenes):
    overlay = np.full((180, 320, 3), 200, np.uint8)
    jpeg = Pictures().drawn(scenes.result(0, overlay=overlay))
    assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).min() > 190


def test_without_an_overlay_instances_and_zones_are_drawn_here(scenes):
    plain = scenes.result(0)
    zone = Shape("door", np.array([[5, 5], [300, 5], [300, 170]], np.float32), True, "3")
    with_zone = scenes.result(0, shapes=(zone,))
    assert Pictures().drawn(plain) != Pictures().drawn(with_zone)
    header, _ = taken_apart(Pictures().packet(Shown(1, with_zone), "full"))
    assert header["shapes"] == [
        {"name": "door", "text": "3", "closed": True, "points": [5, 5, 300, 5, 300, 170]}
    ]

"""Frames for browsers: a JPEG of the plain picture, and what was found in it as outlines.

The browser draws. So every viewer has filters and opacity of their own, and nobody's choice reaches
the camera or costs the device anything.
"""

from __future__ import annotations

import json
import struct
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from solo_edge.draw import draw_instances, draw_shapes, instance_colors
from solo_edge.instances import Instances, Region
from solo_edge.video.clock import now
from solo_edge.video.result import ProcessedFrame
from solo_edge.video.web.board import Shown

__all__ = ["QUALITIES", "Pictures", "Quality", "trace"]

Quality = Literal["full", "small"]
# Quality of the JPEG and the longest side, where it is limited: `small` is for tiles and thumbnails.
QUALITIES: dict[Quality, tuple[int, int | None]] = {"full": (85, None), "small": (75, 640)}
DRAWN_QUALITY = 88  # of pictures with thin coloured lines in them
# More pieces than any object has: a mask of noise must not make the message long.
MOST_OUTLINES = 48
# Deviation of a simplified outline from the mask's border: invisible at the size of the picture.
TOLERANCE_PX = 0.8
FINE_SIDE = 720  # up to this smaller side of the picture; it grows with larger ones


class Pictures:
    """Encodes what browsers ask for, each thing once. For one thread at a time."""

    def __init__(self) -> None:
        self._headers: dict[int, tuple[int, dict[str, Any]]] = {}  # by source: serial and header

    def packet(self, shown: Shown, quality: Quality) -> bytes:
        """One binary message: the header's length (uint32, little-endian), the header, a JPEG.

        The header is JSON in UTF-8: `source`, `serial`, `index`, `timestamp_s`, `size` (height,
        width), `age_ms` (from the capture to this moment), `wait_ms` (to the start of inference),
        `stage_ms`, `instances` and `shapes`. Each of the instances, best first, has `label`, `score`,
        `track` (0 if that is unsure, null if nothing is tracked), `color` (r, g, b), `box` (left, top,
        right, bottom) and `outlines`: lists x0, y0, x1, y1, ... in pixels of the frame, filled by the
        even-odd rule. Shapes are zones and lines: `name`, `text`, `closed`, `points`.
        """
        result = shown.result
        header = self._header(shown)
        if result.frame.captured_s:
            header["age_ms"] = round(1000.0 * (now() - result.frame.captured_s), 1)
        text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
        level, longest = QUALITIES[quality]
        return struct.pack("<I", len(text)) + text + _jpeg(result.frame.image, level, longest)

    def drawn(self, result: ProcessedFrame) -> bytes:
        """A JPEG with everything drawn into it, for programs that only show pictures."""
        # The first frames after somebody began to look were not drawn by the pipeline.
        picture = result.overlay
        if picture is None:
            picture = draw_shapes(result.frame.image, result.shapes)
            draw_instances(picture, result.instances, out=picture)
        return _jpeg(picture, DRAWN_QUALITY, None)

    def _header(self, shown: Shown) -> dict[str, Any]:
        result = shown.result
        kept = self._headers.get(result.source_index)
        if kept is None or kept[0] != shown.serial:
            kept = (shown.serial, _describe(shown))
            self._headers[result.source_index] = kept
        return kept[1]


def _describe(shown: Shown) -> dict[str, Any]:
    result = shown.result
    return {
        "source": result.source_index,
        "serial": shown.serial,
        "index": result.frame.index,
        "timestamp_s": round(result.frame.timestamp_s, 4),
        "size": result.frame.image.shape[:2],
        "age_ms": None,
        "wait_ms": round(result.age_ms, 1),
        "stage_ms": {stage: round(value, 2) for stage, value in result.stage_ms.items()},
        "instances": _describe_instances(result.instances),
        "shapes": [
            {
                "name": shape.name,
                "text": shape.text,
                "closed": shape.closed,
                "points": np.round(shape.points, 1).reshape(-1).tolist(),
            }
            for shape in result.shapes
        ],
    }


def _describe_instances(instances: Instances) -> list[dict[str, Any]]:
    found = [trace(region, instances.image_size) for region in instances.regions()]
    tracks = [None] * len(found) if instances.track_ids is None else instances.track_ids.tolist()
    columns = (
        instances.labels.tolist(),
        instances.scores.tolist(),
        tracks,
        instance_colors(instances).tolist(),
    )
    return [
        {
            "label": label,
            "score": round(score, 4),
            "track": track,
            "color": color,
            "box": box,
            "outlines": [points.reshape(-1).tolist() for points in outlines],
        }
        for label, score, track, color, (box, outlines) in zip(*columns, found, strict=True)
    ]


class Traced(NamedTuple):
    """A mask as lines."""

    box: tuple[
        int, int, int, int
    ]  # left, top, right, bottom; the end exclusive; zeros for no pixel
    outlines: list[NDArray[Any]]  # [K, 2] x, y each: outer borders and holes


def trace(region: Region, image_size: tuple[int, int]) -> Traced:
    """The borders of a mask in the image.

    Points are the centres of the outermost pixels, so a drawn outline lies on the mask.
    """
    import cv2

    if region.mask.size == 0:
        return Traced((0, 0, 0, 0), [])
    found, _ = cv2.findContours(
        np.ascontiguousarray(region.mask).view(np.uint8),
        cv2.RETR_CCOMP,
        cv2.CHAIN_APPROX_SIMPLE,
        offset=(int(region.left), int(region.top)),
    )
    if len(found) > MOST_OUTLINES:
        found = sorted(found, key=cv2.contourArea, reverse=True)[:MOST_OUTLINES]
    if not found:
        return Traced((0, 0, 0, 0), [])
    left, top, width, height = cv2.boundingRect(np.concatenate(found))
    tolerance = TOLERANCE_PX * max(1.0, min(image_size) / FINE_SIDE)
    lines = [cv2.approxPolyDP(contour, tolerance, True)[:, 0] for contour in found]
    return Traced((left, top, left + width, top + height), lines)


def _jpeg(image: NDArray[np.uint8], quality: int, longest: int | None) -> bytes:
    """`image` [H, W, 3] RGB as a JPEG, shrunk so that no side is longer than `longest`."""
    import cv2

    picture: NDArray[Any] = image
    height, width = image.shape[:2]
    if longest is not None and max(height, width) > longest:
        scale = longest / max(height, width)
        size_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
        picture = cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(
        ".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    encoded: bytes = data.tobytes()
    return encoded

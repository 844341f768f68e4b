"""Names, track ids and scores beside the instances, inside the image and off each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from solo_edge.draw.masks import DrawnMasks
from solo_edge.draw.palette import ink_on
from solo_edge.draw.text import Coverage, cut_text, font_size, line, number, stamp
from solo_edge.instances import Instances

__all__ = ["draw_labels"]

# With more instances than this, names that are large beside their objects would hide the picture.
CROWD = 10
# Of an object's box that a name may cover in a crowd, if the name is not narrower than the box.
_COVERED = 0.35
# Share of a mask below which it counts as hidden by better ones; 0 is the share of an empty mask.
_HIDDEN = 0.1


class Rectangle(NamedTuple):
    left: int
    top: int
    right: int
    bottom: int

    def overlaps(self, other: Rectangle) -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


def draw_labels(
    output: NDArray[np.uint8], instances: Instances, masks: DrawnMasks, colors: NDArray[np.uint8]
) -> None:
    """Write `name #track score` on a plate of the instance's colour, in place.

    The best instances choose their place first. What is nearly hidden has no label. In a crowd one
    that is large beside its object loses the score, then the name, and is left out at last; as it is
    where there is no room for it.
    """
    size = font_size(instances.image_size, 1 / 38, 12, 40)
    crowd = len(instances) > CROWD
    ids = [0] * len(instances) if instances.track_ids is None else instances.track_ids.tolist()
    placed: list[Rectangle] = []
    rows = zip(instances.names, ids, instances.scores.tolist(), colors.tolist(), strict=True)
    for (name, track, score, color), box, visible in zip(
        rows, masks.boxes.tolist(), masks.visible.tolist(), strict=True
    ):
        if visible < _HIDDEN:
            continue
        for label in _forms(name, track, score, size, instances.image_size):
            if crowd and _is_large(label, box):
                continue
            spot = place(box, (label.shape[0], label.shape[1]), instances.image_size, placed)
            if spot is not None:
                placed.append(spot)
                plate = (color[0], color[1], color[2])
                stamp(output, spot.top, spot.left, label, plate, ink_on(plate))
                break


def make_label(name: str, tail: str, size: int, image_size: tuple[int, int]) -> Coverage | None:
    """The text, its name cut with "…" to fit into the image; None where there is no room for that."""
    after = number(tail, size)
    frame = line(after)
    room = image_size[1] - frame.shape[1]
    if room < 0 or frame.shape[0] > image_size[0]:
        return None
    return line(cut_text(name, size, room), after)


def place(
    box: Sequence[int],
    label_size: tuple[int, int],
    image_size: tuple[int, int],
    taken: Sequence[Rectangle],
) -> Rectangle | None:
    """Where a label goes: above the middle of its box, or inside or below it; None without room there."""
    height, width = label_size
    x = min(max((box[0] + box[2] - width) // 2, 0), image_size[1] - width)
    across = [other for other in taken if other.left < x + width and x < other.right]
    for y in _rows(box, height, image_size[0]):
        spot = Rectangle(x, y, x + width, y + height)
        if not any(spot.overlaps(other) for other in across):
            return spot
    return None


def _forms(
    name: str, track: int, score: float, size: int, image_size: tuple[int, int]
) -> Iterator[Coverage]:
    """The label in full and ever shorter."""
    known = f" #{track}" if track > 0 else ""
    for text, tail in ((name, f"{known} {score:.2f}"), (name, known), ("", known.strip())):
        label = make_label(text, tail, size, image_size) if text or tail else None
        if label is not None:
            yield label


def _is_large(label: Coverage, box: Sequence[int]) -> bool:
    """Whether it hides much of what it names."""
    width, height = box[2] - box[0], box[3] - box[1]
    return label.shape[1] > width and label.size > _COVERED * width * height


def _rows(box: Sequence[int], height: int, image_height: int) -> Iterator[int]:
    """The tops to try, in order; all of them leave the label inside the image."""
    _, top, _, bottom = box
    further = range(top + height, bottom - height, height)
    tried = (top - height, top, bottom, bottom - height, *further)
    inside = [y for y in tried if 0 <= y <= image_height - height]
    yield from inside or [min(max(top, 0), image_height - height)]

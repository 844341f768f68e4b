from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from solo_edge.instances import Instances

NAMES = ("cat", "traffic light", "Äpfel", "a\nb", "")


@pytest.fixture
def make() -> Callable[..., Instances]:
    """Instances with rectangular masks (left, top, right, bottom), best first."""

    def instances(size, boxes, labels=None, masks=None, track_ids=None):
        if masks is None:
            masks = np.zeros((len(boxes), *size), dtype=bool)
            for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
                mask[top:bottom, left:right] = True
        count = len(boxes)
        return Instances(
            np.linspace(0.9, 0.3, count),
            np.zeros(count, dtype=int) if labels is None else np.array(labels),
            masks,
            class_names=NAMES,
            image_size=size,
            track_ids=None if track_ids is None else np.array(track_ids),
        )

    return instances


@pytest.fixture
def gray() -> Callable[[tuple[int, int]], np.ndarray]:
    """An image of this (height, width) all of whose values are 100."""
    return lambda size: np.full((*size, 3), 100, dtype=np.uint8)

"""Images whose pixels say which object they belong to, as run-length codes of the objects."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["regions_of_labels", "run_lengths"]


def regions_of_labels(labels: NDArray[Any]) -> dict[int, dict[str, Any]]:
    """Value -> uncompressed run-length code of its pixels, for every value but 0, in ascending order.

    All objects come from one pass over the map, however many they are.

    Args:
        labels: [H, W] whole numbers.
    """
    size = (labels.shape[0], labels.shape[1])
    flat = np.ascontiguousarray(labels.T).reshape(-1)
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    ends = np.append(starts[1:], len(flat))
    values = flat[starts]
    order = np.argsort(values, kind="stable")  # runs of one value stay in the order of the pixels
    order = order[values[order] != 0]
    found, first = np.unique(values[order], return_index=True)
    groups = np.split(order, first[1:])
    return {
        int(value): run_lengths(
            np.stack([starts[group], ends[group]], axis=1).tolist(), len(flat), size
        )
        for value, group in zip(found, groups, strict=False)
    }


def run_lengths(spans: list[Any], pixels: int, size: tuple[int, int]) -> dict[str, Any]:
    """Code of the (start, end) spans of an object's pixels, counted down the columns."""
    counts, place = [], 0
    for start, end in spans:
        counts += [start - place, end - start]
        place = end
    rest = [pixels - place] if place < pixels else []
    return {"size": list(size), "counts": counts + rest}

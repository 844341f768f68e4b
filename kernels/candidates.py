"""Which (cell, class) pairs get a mask: points NMS, then the best scores above a threshold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from solo_edge.kernels.backend import ArrayT, is_float, run
from solo_edge.kernels.results import Candidates

__all__ = ["check_category_scores", "points_nms", "select_candidates"]


def points_nms(scores: ArrayT, *, backend: str = "auto") -> ArrayT:
    """Keep a cell's score only if no cell above, left or above-left of it has a higher one; else 0.

    SOLOv2's authors do this with a 2x2 max-pooling (`points_nms`); equal neighbours are both kept.

    Args:
        scores: [B, C, S, S] after the sigmoid.

    Returns:
        [B, C, S, S] of the same type.

    Raises:
        ValueError: wrong shape, type or backend.
    """
    if scores.ndim != 4 or not is_float(scores):
        raise ValueError(
            f"scores must be floats [B, C, S, S], got {scores.dtype} {tuple(scores.shape)}"
        )
    result: ArrayT = run("points_nms", backend, scores)
    return result


def select_candidates(
    category_scores: Any,
    *,
    score_threshold: float = 0.1,
    max_candidates: int = 500,
    backend: str = "auto",
) -> Candidates:
    """The best `max_candidates` of the (cell, class) pairs whose score is above `score_threshold`.

    A cell may be chosen for several classes. Equal scores count in the order of (class, cell).
    Scores that are no probabilities (NaN, infinite) are never chosen.

    Args:
        category_scores: after the sigmoid. A sequence of levels [B, C, S, S], with which points NMS
            is done here, or one array [B, C, T] that had it; T counts the cells of all levels, in
            order, row by row.
        score_threshold: at least 0.

    Returns:
        `Candidates` with K = `max_candidates` slots for each image, best first; those from its
        valid count on are 0.

    Raises:
        ValueError: wrong shape, type, limit or backend.
    """
    check_category_scores(category_scores)
    if max_candidates < 1:
        raise ValueError(f"max_candidates must be at least 1, got {max_candidates}")
    if not score_threshold >= 0:
        raise ValueError(f"score_threshold must be at least 0, got {score_threshold}")
    options = {"score_threshold": score_threshold, "max_candidates": max_candidates}
    result: Candidates = run("select_candidates", backend, category_scores, **options)
    return result


def check_category_scores(scores: Any) -> tuple[int, int, int]:
    """(B, C, T) of the scores of `select_candidates`.

    Raises:
        ValueError: they are neither levels nor flat.
    """
    if isinstance(scores, Sequence):
        shapes = [tuple(level.shape) for level in scores]
        fits = shapes and all(
            len(shape) == 4 and shape[:2] == shapes[0][:2] and shape[2] == shape[3]
            for shape in shapes
        )
        if not fits or not all(is_float(level) for level in scores):
            raise ValueError(f"category_scores must be float levels [B, C, S, S], got {shapes}")
        return shapes[0][0], shapes[0][1], sum(shape[2] ** 2 for shape in shapes)
    if scores.ndim != 3 or not is_float(scores):
        got = f"{scores.dtype} {tuple(scores.shape)}"
        raise ValueError(f"category_scores must be floats [B, C, T] or levels, got {got}")
    batch, classes, cells = scores.shape
    return int(batch), int(classes), int(cells)

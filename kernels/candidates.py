"""Which (cell, class) pairs get a mask: points NMS, then the best scores above a threshold."""

from __future__ import annotations

from typing import Any, NamedTuple

from solo_edge.kernels.backend import ArrayT, is_float, run

__all__ = ["MAX_SCORE", "Candidates", "points_nms", "select_candidates"]

# A score is a probability; a damaged one may be NaN or infinite. Being below 2 excludes both, in
# every precision and with one comparison that every graph format has, and spares a sigmoid that
# rounds to just above 1.
MAX_SCORE = 2.0


class Candidates(NamedTuple):
    """The chosen (cell, class) pairs, best first. Arrays or tensors of length n."""

    scores: Any  # [n]
    labels: Any  # [n] int64
    cells: Any  # [n] int64, index along T


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
    category_scores: ArrayT,
    *,
    score_threshold: float = 0.1,
    max_candidates: int = 500,
    backend: str = "auto",
) -> Candidates:
    """The best `max_candidates` of the (cell, class) pairs whose score is above `score_threshold`.

    A cell may be chosen for several classes. Equal scores count in the order of (class, cell).
    Scores that are no probabilities (NaN, infinite) are never chosen.

    Args:
        category_scores: [C, T] after sigmoid and points NMS, of one image.

    Returns:
        Candidates, best first; their number is at most `max_candidates` and may be 0.

    Raises:
        ValueError: wrong shape, type, limit or backend.
    """
    if category_scores.ndim != 2 or not is_float(category_scores):
        got = f"{category_scores.dtype} {tuple(category_scores.shape)}"
        raise ValueError(f"category_scores must be floats [C, T], got {got}")
    if max_candidates < 1:
        raise ValueError(f"max_candidates must be at least 1, got {max_candidates}")
    options = {"score_threshold": score_threshold, "max_candidates": max_candidates}
    result: Candidates = run("select_candidates", backend, category_scores, **options)
    return result

"""The plain torch definitions against loops and hand-drawn masks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from solo_edge.kernels import reference


def draw(*rows: str) -> torch.Tensor:
    return torch.tensor([[pixel == "#" for pixel in row] for row in rows])


LEFT = draw("##..", "##..", "##..", "##..")  # 8 pixels
TOP = draw("####", "####", "....", "....")  # 8 pixels, 4 of them in LEFT: IoU 4 / 12
CORNER = draw("...#", "....", "....", "....")  # in TOP: IoU 1 / 8; not in LEFT
EMPTY = draw("....", "....", "....", "....")


def matrix_nms_by_loop(iou, labels, scores, f) -> list[float]:
    """Scores descending; the formula of the paper, written as it stands there."""
    overlap = [
        [iou[i][j] if labels[i] == labels[j] else 0.0 for j in range(len(labels))]
        for i in range(len(labels))
    ]
    result = []
    for j, score in enumerate(scores):
        decay = 1.0
        for i in range(j):
            own = max((overlap[k][i] for k in range(i)), default=0.0)
            decay = min(decay, f(overlap[i][j]) / f(own))
        result.append(score * decay)
    return result


def test_iou_of_hand_drawn_masks():
    iou = reference.mask_iou(torch.stack([LEFT, TOP, CORNER, EMPTY]))
    want = [[1, 4 / 12, 0, 0], [4 / 12, 1, 1 / 8, 0], [0, 1 / 8, 1, 0], [0, 0, 0, 0]]
    torch.testing.assert_close(iou, torch.tensor(want))


def test_matrix_nms_of_hand_drawn_masks():
    masks = torch.stack([LEFT, TOP, CORNER])
    scores, labels = torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3, dtype=torch.int64)
    got = reference.matrix_nms(masks, labels, scores, decay="linear", sigma=2.0)
    # CORNER overlaps only TOP, which LEFT overlaps more: its quotient is above 1 and LEFT decides.
    torch.testing.assert_close(got, torch.tensor([0.9, 0.8 * (2 / 3), 0.7]))
    got = reference.matrix_nms(masks, labels, scores, decay="gaussian", sigma=2.0)
    torch.testing.assert_close(got, torch.tensor([0.9, 0.8 * math.exp(-2 / 9), 0.7]))


@pytest.mark.parametrize("decay", ["gaussian", "linear"])
def test_matrix_nms_equals_the_loop(decay):
    rng = np.random.default_rng(0)
    f = (lambda x: math.exp(-2.0 * x * x)) if decay == "gaussian" else (lambda x: 1 - x)
    for count in (1, 2, 9, 25):
        masks = torch.from_numpy(rng.random((count, 4, 5)) < 0.5)
        labels = torch.from_numpy(rng.integers(0, 3, count))
        scores = torch.from_numpy(np.sort(rng.random(count))[::-1].copy())
        iou = reference.mask_iou(masks).tolist()
        want = matrix_nms_by_loop(iou, labels.tolist(), scores.tolist(), f)
        got = reference.matrix_nms(masks, labels, scores, decay=decay, sigma=2.0)
        # float32 quotients of a float64 loop
        torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64), rtol=2e-6, atol=0)


def test_three_identical_masks_decay_to_zero_in_linear_form():
    masks = torch.stack([LEFT, LEFT, LEFT, CORNER])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6])
    labels = torch.zeros(4, dtype=torch.int64)
    got = reference.matrix_nms(masks, labels, scores, decay="linear", sigma=2.0)
    assert got.tolist() == [scores[0].item(), 0.0, 0.0, scores[3].item()]


def test_points_nms_by_hand():
    scores = torch.tensor([[[[0.2, 0.3, 0.1], [0.5, 0.3, 0.3], [0.5, 0.6, 0.2]]]])
    # (0, 2) has 0.3 on its left, (1, 1) has 0.5 on its left, (2, 2) has 0.6; equal neighbours stay.
    want = torch.tensor([[[[0.2, 0.3, 0.0], [0.5, 0.0, 0.3], [0.5, 0.6, 0.0]]]])
    torch.testing.assert_close(reference.points_nms(scores), want)


def test_dynamic_conv_is_a_1x1_convolution():
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.standard_normal((6, 3, 5)))
    kernels = torch.from_numpy(rng.standard_normal((4, 6)))
    want = torch.nn.functional.conv2d(features[None], kernels[:, :, None, None])[0]
    torch.testing.assert_close(reference.dynamic_conv(features, kernels), want)


def test_no_candidates():
    none = reference.dynamic_conv(torch.zeros(6, 3, 5), torch.zeros(0, 6))
    assert none.shape == (0, 3, 5)
    assert reference.mask_iou(torch.zeros(0, 3, 5, dtype=torch.bool)).shape == (0, 0)

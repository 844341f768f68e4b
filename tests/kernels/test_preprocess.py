"""`preprocess`: OpenCV is the definition; the host, torch and Triton versions are held to it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from solo_edge import kernels
from solo_edge.kernels.tiles import Tile, Tiles
from solo_edge.preprocess import Preprocess

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
# Without a GPU: the interpreter's time is the number of programs, not of pixels.
LARGE = Tile({"BLOCK_Y": 64, "BLOCK_X": 256})
# Photographs of many sizes and contents, reduced to these heights before anything is compared.
PHOTOGRAPHS = ("balloon/val", "fruits_nuts/all", "nuclei_dsb2018/val", "coco_road4/val")
PHOTOGRAPH_HEIGHTS = (67, 233, 331)
INPUTS = ((128, 160), (97, 211), (256, 256))


@pytest.fixture(autouse=True)
def large_tiles(monkeypatch, device):
    if device.type == "cpu":
        from solo_edge.kernels._triton import operations

        monkeypatch.setattr(operations, "tiles_for", lambda _: Tiles(preprocess=LARGE))


@pytest.fixture(scope="module")
def photographs(shared):
    files = [sorted((shared / "data" / folder).glob("*"))[0] for folder in PHOTOGRAPHS]
    images = []
    for file, height in zip(files, (*PHOTOGRAPH_HEIGHTS, 540), strict=True):
        whole = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
        width = round(whole.shape[1] * height / whole.shape[0])
        images.append(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA))
    return images


def by_opencv(image, input_size):
    """What the definition gives without normalisation (grey levels), and the size of the frame in it."""
    levels, geometry = Preprocess(input_size, (0.0,) * 3, (1.0,) * 3)(image)
    return levels, geometry.resized_size


def run(backend, image, resized_size, input_size, device, **options):
    """float32 [3, height, width] from a frame that lies in the middle of poison."""
    room = np.full((image.shape[0] + 8, image.shape[1] * 3 + 50), 0xA5, np.uint8)
    height, width = image.shape[:2]
    frame = room[4 : 4 + height, 20 : 20 + 3 * width].reshape(height, width, 3, copy=False)
    frame[...] = image
    if backend != "numpy":
        frame = torch.as_strided(
            torch.from_numpy(room).to(device),
            (height, width, 3),
            (room.shape[1], 3, 1),
            4 * room.shape[1] + 20,
        )
    made = kernels.preprocess(frame, resized_size, input_size, backend=backend, **options)
    assert made.shape == (1, 3, *input_size)
    return np.asarray(made[0].cpu() if backend != "numpy" else made[0])


@pytest.mark.parametrize("backend", ["numpy", "torch", "triton"])
def test_photographs_are_within_one_grey_level_of_opencv(backend, photographs, device):
    equal, total, largest = 0, 0, 0.0
    for image in photographs:
        for input_size in (*INPUTS, image.shape[:2]):
            expected, resized = by_opencv(image, input_size)
            found = run(backend, image, resized, input_size, device)
            difference = np.abs(found - expected)[:, : resized[0], : resized[1]]
            equal += int((difference == 0).sum())
            total += difference.size
            largest = max(largest, float(difference.max()))
            assert not found[:, resized[0] :].any()
            assert not found[:, :, resized[1] :].any()
    print(f"{backend}: {100 * equal / total:.4f} % of {total} values equal, largest {largest}")
    assert largest <= 1.0
    assert equal / total > 0.999


@settings(max_examples=25)
@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    input_size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    seed=st.integers(0, 2**32 - 1),
)
def test_noise_of_any_size_is_within_one_grey_level_everywhere(size, input_size, seed, device):
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    expected, resized = by_opencv(image, input_size)
    found = {
        backend: run(backend, image, resized, input_size, device)
        for backend in ("numpy", "torch", "triton")
    }
    assert np.abs(found["numpy"] - expected).max() <= 1.0
    np.testing.assert_array_equal(found["torch"], found["numpy"])
    np.testing.assert_array_equal(found["triton"], found["numpy"])


@pytest.mark.parametrize("backend", ["numpy", "torch", "triton"])
def test_normalised_values_are_those_of_the_definition(backend, photographs, device):
    preprocess = Preprocess((96, 128), MEAN, STD)
    expected, geometry = preprocess(photographs[0])
    options = {"pixel_mean": MEAN, "pixel_std": STD}
    found = run(backend, photographs[0], geometry.resized_size, (96, 128), device, **options)
    # The same two float32 operations on the same grey levels.
    same = found == expected
    assert same.mean() > 0.999
    assert np.abs(found - expected).max() <= 1.0 / min(STD) + 1e-6


@pytest.mark.parametrize("backend", ["numpy", "torch", "triton"])
def test_blue_first_and_half_precision(backend, photographs, device):
    image = photographs[0]
    options = {"pixel_mean": MEAN, "pixel_std": STD}
    exact = run(backend, image, (60, 80), (64, 96), device, **options)
    turned = run(backend, image[:, :, ::-1], (60, 80), (64, 96), device, bgr=True, **options)
    np.testing.assert_array_equal(turned, exact)
    half = run(backend, image, (60, 80), (64, 96), device, dtype="float16", **options)
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, exact.astype(np.float16))


def test_the_default_tile_gives_the_same(photographs, device, monkeypatch):
    from solo_edge.kernels._triton import operations

    image = photographs[1][:80, :90]
    large = run("triton", image, (41, 47), (43, 67), device)
    monkeypatch.setattr(operations, "tiles_for", lambda _: Tiles())
    np.testing.assert_array_equal(run("triton", image, (41, 47), (43, 67), device), large)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"frame": np.zeros((4, 4, 3), np.float32)}, r"frame must be uint8 \[H, W, 3\]"),
        ({"frame": np.zeros((4, 4), np.uint8)}, r"frame must be uint8 \[H, W, 3\]"),
        ({"frame": np.zeros((0, 4, 3), np.uint8)}, "sides from 1 to 16384"),
        ({"resized_size": (9, 4)}, "want 1 <= resized_size <= input_size"),
        ({"pixel_std": (1.0, 0.0, 1.0)}, "want finite means and positive stds"),
        ({"dtype": "float64"}, "dtype must be 'float32' or 'float16'"),
    ],
)
def test_wrong_arguments_are_refused(changes, expected):
    right = {
        "frame": np.zeros((4, 4, 3), np.uint8),
        "resized_size": (8, 8),
        "input_size": (8, 8),
    }
    with pytest.raises(ValueError, match=expected):
        kernels.preprocess(**{**right, **changes})

"""`draw_overlay`: the definition, the host version, and the Triton kernel on a GPU or in the interpreter."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from solo_edge.kernels import draw_overlay, reference_overlay, render_masks
from solo_edge.kernels._triton.launch import run_plan
from solo_edge.kernels.overlay import MAX_THICKNESS, OverlaySizes, overlay_plan
from solo_edge.kernels.reference_render import resize_probabilities
from solo_edge.kernels.tiles import Tile, Tiles

# Probabilities whose value in float64 is nearer to the threshold may fall on either side; see test_render.
MARGIN = 2e-6
SMALL_TILE = Tile({"BLOCK_Y": 16, "BLOCK_X": 32, "LOW_Y": 4, "LOW_X": 8})
LARGE_TILE = Tile({"BLOCK_Y": 64, "BLOCK_X": 128, "LOW_Y": 16, "LOW_X": 32})


class Scene(NamedTuple):
    frame: torch.Tensor  # [H, W, 3] uint8
    probabilities: torch.Tensor  # [M, h, w]
    valid_count: torch.Tensor  # [1] int32
    colors: torch.Tensor  # [M, 3] uint8
    resized_size: tuple[int, int]

    def to(self, device: torch.device) -> Scene:
        return Scene(*(tensor.to(device) for tensor in self[:4]), self.resized_size)


def make_scene(count, low, size, resized, valid, seed):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, max(count, 1), 5, 6, generator=generator) * 3
    probabilities = F.interpolate(coarse, size=low, mode="bicubic").sigmoid()[0, :count]
    return Scene(
        torch.randint(0, 256, (*size, 3), generator=generator, dtype=torch.uint8),
        probabilities,
        torch.tensor([valid], dtype=torch.int32),
        torch.randint(0, 256, (count, 3), generator=generator, dtype=torch.uint8),
        resized,
    )


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    """Frames enlarged and reduced, with padding and without."""
    count, low = draw(st.integers(0, 4)), draw(st.tuples(st.integers(1, 18), st.integers(1, 18)))
    return make_scene(
        count,
        low,
        draw(st.tuples(st.integers(1, 70), st.integers(1, 90))),
        draw(st.tuples(*(st.integers(1, 4 * side) for side in low))),
        draw(st.integers(0, count)),
        draw(st.integers(0, 2**31)),
    )


options = st.fixed_dictionaries(
    {
        # With 0.3 every tenth sum would lie half-way between two grey levels.
        "alpha": st.sampled_from([0.0, 0.3141, 0.5, 1.0]),
        "mask_threshold": st.sampled_from([0.2, 0.5, 0.8]),
        "thickness": st.integers(0, 4),
    }
)


def definition(scene: Scene, **chosen) -> torch.Tensor:
    scene = scene.to(torch.device("cpu"))
    double = scene._replace(probabilities=scene.probabilities.double())
    *arrays, resized = double
    return reference_overlay.draw_overlay(*arrays, resized_size=resized, **chosen)


def unclear(scene: Scene, *, mask_threshold: float, thickness: int) -> torch.Tensor:
    """[H, W]: where a mask within rounding of the threshold has an influence."""
    scene = scene.to(torch.device("cpu"))
    size = tuple(scene.frame.shape[:2])
    values = resize_probabilities(
        scene.probabilities.double(), scene.resized_size, size, exact=True
    )
    near = ((values - mask_threshold).abs() <= MARGIN).any(0).double()[None]
    return F.max_pool2d(near, 2 * thickness + 1, stride=1, padding=thickness)[0] > 0


def check(got: torch.Tensor, scene: Scene, **chosen) -> None:
    want = definition(scene, **chosen)
    assert got.dtype == torch.uint8
    assert got.shape == want.shape
    difference = (got.cpu().int() - want.int()).abs().amax(-1)
    limits = {name: chosen[name] for name in ("mask_threshold", "thickness")}
    # One grey level where rounding decides.
    clear = difference[~unclear(scene, **limits)]
    assert clear.numel() == 0 or clear.max() <= 1
    assert (difference > 0).sum() <= 2 + 0.02 * difference.numel()


def triton_draw(scene: Scene, tile: Tile = LARGE_TILE, **chosen) -> torch.Tensor:
    """The plan itself, so that the tile can be chosen; the frame lies in a larger picture."""
    device = scene.frame.device
    height, width = scene.frame.shape[:2]
    picture = torch.full((height, width * 3 + 7), 77, dtype=torch.uint8, device=device)
    picture[:, : 3 * width] = scene.frame.reshape(height, -1)
    layout = (height, width, picture.stride(0), *scene.resized_size)
    sizes = OverlaySizes(*scene.probabilities.shape, height, width, picture.numel())
    inputs = {
        "frame": picture.reshape(-1),
        "layout": torch.tensor(layout, dtype=torch.int32, device=device),
        "probabilities": scene.probabilities,
        "valid_count": scene.valid_count,
        "colors": scene.colors,
    }
    plan = overlay_plan(sizes, Tiles(draw_overlay=tile), **chosen)
    return run_plan(plan, inputs)["drawn"]


def test_definition_on_a_picture_drawn_by_hand():
    """Two instances side by side, one before the other, without any resize."""
    probabilities = torch.zeros(2, 5, 8)
    probabilities[0, :, 2:5] = 1.0
    probabilities[1, :, 4:7] = 1.0
    frame = torch.full((20, 32, 3), 100, dtype=torch.uint8)
    colors = torch.tensor([(200, 0, 50), (0, 250, 0)], dtype=torch.uint8)
    got = draw_overlay(frame, probabilities, torch.tensor([2]), colors, (20, 32), thickness=1)
    row = got[10]
    first, second = torch.tensor([150, 50, 75]), torch.tensor([50, 175, 50])
    assert (got == row).all()  # the upper and lower border of the frame are no outline
    assert (row[:8] == 100).all()
    assert (row[8] == colors[0]).all()
    assert (row[9:19] == first).all()
    assert (row[19] == colors[0]).all()
    assert (row[20] == colors[1]).all()
    assert (row[21:27] == second).all()
    assert (row[27] == colors[1]).all()
    assert (row[28:] == 100).all()


@given(scenes(), options)
def test_host_equals_the_definition(scene, chosen):
    arrays = [tensor.numpy() for tensor in scene[:4]]
    got = draw_overlay(*arrays, scene.resized_size, **chosen)
    check(torch.from_numpy(got), scene, **chosen)


@settings(max_examples=15)
@given(scenes(), options)
def test_triton_equals_the_definition(device, scene, chosen):
    scene = scene.to(device)
    got = draw_overlay(*scene, **chosen, backend="triton")
    check(got, scene, **chosen)


def test_the_tile_changes_nothing(device):
    scene = make_scene(3, (12, 17), (50, 75), (44, 66), 3, seed=7).to(device)
    for thickness in (0, 1, 3, MAX_THICKNESS - 1):
        chosen = {"alpha": 0.4, "mask_threshold": 0.5, "thickness": thickness}
        first = triton_draw(scene, LARGE_TILE, **chosen)
        check(first, scene, **chosen)
        # A quarter of the tile at most: else nothing is left that a program writes.
        if thickness <= 4:
            assert torch.equal(triton_draw(scene, SMALL_TILE, **chosen), first)


@pytest.mark.parametrize("pixel", [(2, 5), (5, 2)])
def test_no_program_overlooks_what_a_single_pixel_reaches(pixel, device):
    """The last row (or column) that the first programs write has a little weight on its third pixel."""
    scene = make_scene(1, (7, 7), (72, 147), (28, 28), 1, seed=6)
    scene.probabilities.zero_()[(0, *pixel)] = 1.0
    scene = scene.to(device)
    chosen = {"alpha": 1.0, "mask_threshold": 1e-4, "thickness": 0}
    drawn = triton_draw(scene, SMALL_TILE, **chosen)
    check(drawn, scene, **chosen)
    edge = drawn[15] if pixel[0] == 2 else drawn[:, 31]
    assert (edge == scene.colors[0]).all(-1).any()


@pytest.mark.parametrize("backend", ["numpy", "torch", "triton"])
def test_nothing_to_draw_gives_a_copy(backend, device):
    for count in (0, 3):
        scene = make_scene(count, (6, 9), (20, 31), (24, 36), 0, seed=1).to(device)
        got = draw_overlay(*scene, backend=backend)
        assert torch.equal(got, scene.frame)
        assert got.data_ptr() != scene.frame.data_ptr()


@pytest.mark.parametrize("backend", ["numpy", "torch", "triton"])
def test_slots_behind_the_valid_ones_are_not_drawn(backend, device):
    scene = make_scene(4, (6, 9), (20, 31), (24, 36), 2, seed=2).to(device)
    scene.probabilities[2:] = 1.0
    fewer = scene._replace(probabilities=scene.probabilities[:2], colors=scene.colors[:2])
    assert torch.equal(draw_overlay(*scene, backend=backend), draw_overlay(*fewer, backend=backend))


@pytest.mark.parametrize("backend", ["numpy", "torch", "triton"])
def test_nan_is_never_drawn(backend, device):
    scene = make_scene(2, (6, 9), (20, 31), (24, 36), 2, seed=3).to(device)
    scene.probabilities[0] = float("nan")
    scene.probabilities[1] = 0.9
    other = scene._replace(
        probabilities=scene.probabilities[1:], colors=scene.colors[1:], valid_count=scene.valid_count - 1
    )  # fmt: skip
    assert torch.equal(draw_overlay(*scene, backend=backend), draw_overlay(*other, backend=backend))


@pytest.mark.parametrize("backend", ["numpy", "torch", "triton"])
def test_masks_are_those_of_render_masks(backend, device):
    scene = make_scene(1, (9, 14), (40, 61), (36, 50), 1, seed=4).to(device)
    black = scene._replace(
        frame=torch.zeros_like(scene.frame), colors=torch.full_like(scene.colors, 255)
    )
    drawn = draw_overlay(*black, alpha=1.0, backend=backend)
    masks = render_masks(
        scene.probabilities[None], scene.valid_count, [scene.resized_size], [(40, 61)], backend=backend
    )  # fmt: skip
    assert torch.equal(drawn[..., 0] > 0, masks[0, 0] > 0)


def test_frames_with_gaps_and_other_types(device):
    scene = make_scene(3, (8, 13), (30, 41), (30, 52), 3, seed=5).to(device)
    picture = torch.zeros(30, 99, 3, dtype=torch.uint8, device=device)
    picture[:, 20:61] = scene.frame
    want = draw_overlay(*scene, backend="triton")
    part = scene._replace(
        frame=picture[:, 20:61], valid_count=scene.valid_count.long(),
        probabilities=scene.probabilities.mT.contiguous().mT,
    )  # fmt: skip
    turned = scene._replace(frame=scene.frame.permute(2, 0, 1).contiguous().permute(1, 2, 0))
    for other in (part, turned):
        for backend in ("triton", "torch", "numpy"):
            got = draw_overlay(*other, backend=backend)
            assert got.is_contiguous()
            assert (got.int() - want.int()).abs().max() <= 1
    half = scene._replace(probabilities=scene.probabilities.half())
    as_float = half._replace(probabilities=half.probabilities.float())
    assert torch.equal(
        draw_overlay(*half, backend="triton"), draw_overlay(*as_float, backend="triton")
    )


def test_a_plan_for_large_frames_draws_small_ones_too(device):
    """What a captured graph is replayed with: the layout and the count are read from memory."""
    scene = make_scene(3, (12, 17), (33, 60), (40, 66), 2, seed=8).to(device)
    chosen = {"alpha": 0.5, "mask_threshold": 0.5, "thickness": 2}
    sizes = OverlaySizes(3, 12, 17, 50, 90, 50 * 90 * 3)
    memory = torch.full((sizes.frame_bytes,), 9, dtype=torch.uint8, device=device)
    memory[: scene.frame.numel()] = scene.frame.reshape(-1)
    layout = torch.tensor((33, 60, 180, 40, 66), dtype=torch.int32, device=device)
    inputs = dict(
        zip(
            ("frame", "layout", "probabilities", "valid_count", "colors"),
            (memory, layout, *scene[1:4]),
            strict=True,
        )
    )
    drawn = run_plan(overlay_plan(sizes, Tiles(draw_overlay=LARGE_TILE), **chosen), inputs)["drawn"]
    check(drawn[:33, :60], scene, **chosen)
    untouched = drawn.clone()
    untouched[:33, :60] = 0xA5
    assert (untouched == 0xA5).all()  # the poison that memory is filled with


def test_the_plan_is_one_launch():
    sizes = OverlaySizes(100, 112, 192, 720, 1280, 720 * 1280 * 3)
    plan = overlay_plan(sizes, Tiles(), alpha=0.5, mask_threshold=0.5, thickness=2)
    (only,) = plan.launches
    assert only.grid == (-(-1280 // 60), -(-720 // 28), 1)


GOOD = {
    "frame": np.zeros((20, 31, 3), dtype=np.uint8),
    "probabilities": np.zeros((2, 6, 9), dtype=np.float32),
    "valid_count": np.array([2]),
    "colors": np.zeros((2, 3), dtype=np.uint8),
    "resized_size": (24, 36),
}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"frame": np.zeros((20, 31), dtype=np.uint8)}, r"frame must be uint8 \[H, W, 3\]"),
        ({"frame": np.zeros((20, 31, 3), dtype=np.int8)}, r"frame must be uint8 \[H, W, 3\]"),
        ({"frame": np.zeros((0, 31, 3), dtype=np.uint8)}, "sides from 1"),
        ({"probabilities": np.zeros((2, 6, 9), dtype=int)}, r"floats \[M, h, w\]"),
        ({"probabilities": np.zeros((2, 0, 9))}, r"floats \[M, h, w\]"),
        ({"valid_count": np.array([1, 1])}, r"integers \[1\]"),
        ({"colors": np.zeros((3, 3), dtype=np.uint8)}, r"uint8 \[2, 3\]"),
        ({"colors": np.zeros((2, 3))}, r"uint8 \[2, 3\]"),
        ({"resized_size": (25, 36)}, "do not cover"),
        ({"resized_size": (0, 36)}, "do not cover"),
        ({"alpha": 1.1}, "alpha must be"),
        ({"alpha": float("nan")}, "alpha must be"),
        ({"mask_threshold": 1.0}, "mask_threshold must be"),
        ({"thickness": 9}, "thickness must be"),
        ({"thickness": -1}, "thickness must be"),
        ({"backend": "cuda"}, "backend must be one of"),
    ],
)
def test_wrong_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        draw_overlay(**{**GOOD, **wrong})

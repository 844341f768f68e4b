"""`render_masks`: the definition, the host version, and the Triton kernels on a GPU or in the interpreter."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from solo_edge.kernels import reference_render, resize
from solo_edge.kernels._triton.launch import run_plan
from solo_edge.kernels.render import RenderSizes, render_masks, render_plan
from solo_edge.kernels.tiles import Tile, Tiles

# The kernels and the host add float32 products, at most nine; the definition is computed in float64.
# A pixel whose value is nearer to the threshold than this may fall on either side.
MARGIN = 2e-6
# In float32 the definition also rounds positions: 1e-7 of the size, times the slope.
MARGIN_OF_FLOAT32 = 1e-5
# Without a GPU: the interpreter's time is the number of programs, not of pixels.
LARGE = Tile({"BLOCK_Y": 32, "BLOCK_X": 64})
LARGEST = Tile({"BLOCK_Y": 128, "BLOCK_X": 512})

sides = st.integers(1, 70)


class Batch(NamedTuple):
    probabilities: torch.Tensor  # [B, M, h, w]
    valid_count: torch.Tensor  # [B] int32
    resized: list[tuple[int, int]]
    original: list[tuple[int, int]]

    def to(self, device: torch.device) -> Batch:
        tensors = (tensor.to(device) for tensor in self[:2])
        return Batch(*tensors, self.resized, self.original)


def smooth(shape: tuple[int, int, int, int], seed: int) -> torch.Tensor:
    """Random probabilities [B, M, h, w] with objects of some pixels' size."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(*shape[:2], 5, 6, generator=generator) * 3
    return F.interpolate(coarse, size=shape[2:], mode="bicubic").sigmoid()


@st.composite
def batches(draw: st.DrawFn, most_images: int = 3) -> Batch:
    """Images of different sizes in one input, enlarged and reduced, with padding and without."""
    batch, count = draw(st.integers(1, most_images)), draw(st.integers(1, 2))
    low = draw(st.tuples(st.integers(1, 18), st.integers(1, 18)))
    size = st.tuples(*(st.integers(1, 4 * side) for side in low))
    resized = draw(st.lists(size, min_size=batch, max_size=batch))
    original = draw(st.lists(st.tuples(sides, sides), min_size=batch, max_size=batch))
    counts = draw(st.lists(st.integers(0, count), min_size=batch, max_size=batch))
    probabilities = smooth((batch, count, *low), draw(st.integers(0, 2**31)))
    if draw(st.booleans()):  # not contiguous
        probabilities = probabilities.mT.contiguous().mT
    return Batch(probabilities, torch.tensor(counts, dtype=torch.int32), resized, original)


def fenced(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in the middle of larger memory full of ones: reading beyond it would show."""
    room = torch.ones(tensor.numel() + 512, dtype=tensor.dtype, device=tensor.device)
    return room[256 : 256 + tensor.numel()].view(tensor.shape).copy_(tensor)


def triton_render(
    batch: Batch, *, threshold: float = 0.5, exact: bool = True, packed: bool = False,
    tile: Tile = LARGE, outputs: tuple[str, ...] = ("masks",),
) -> list[torch.Tensor]:  # fmt: skip
    """The plan itself, so that the boxes can be seen and, in the interpreter, the tile be chosen."""
    device = batch.probabilities.device
    tiles = Tiles() if device.type == "cuda" else Tiles(render_masks=tile)
    size = (max(size[axis] for size in batch.original) for axis in (0, 1))
    sizes = RenderSizes(*batch.probabilities.shape, *size)
    plan = render_plan(sizes, tiles, mask_threshold=threshold, exact=exact, packed=packed)
    rows = [[*a, *b] for a, b in zip(batch.resized, batch.original, strict=True)]
    inputs = {
        "probabilities": fenced(batch.probabilities),
        "valid_count": batch.valid_count,
        "image_sizes": torch.tensor(rows, dtype=torch.int32, device=device),
    }
    return list(run_plan(dataclasses.replace(plan, outputs=outputs), inputs).values())


def unpack(words: torch.Tensor, width: int) -> torch.Tensor:
    """[..., words] uint32 -> [..., width] uint8."""
    bits = words.cpu().numpy().astype("<u4").view(np.uint8)
    return torch.from_numpy(np.unpackbits(bits, axis=-1, bitorder="little"))[..., :width]


def definition(batch: Batch, *, threshold: float = 0.5, exact: bool = True) -> torch.Tensor:
    return reference_render.render_masks(
        batch.probabilities.double(),
        batch.valid_count,
        batch.resized,
        batch.original,
        mask_threshold=threshold,
        exact=exact,
        packed=False,
    )


def unclear(
    batch: Batch, *, threshold: float = 0.5, exact: bool = True, margin: float = MARGIN
) -> torch.Tensor:
    """[B, M, H, W]: where the value is so near to the threshold that rounding decides."""
    near = torch.zeros_like(definition(batch), dtype=torch.bool)
    for i, (resized, original) in enumerate(zip(batch.resized, batch.original, strict=True)):
        values = reference_render.resize_probabilities(
            batch.probabilities[i].double(), resized, original, exact=exact
        )
        near[i, :, : original[0], : original[1]] = (values - threshold).abs() <= margin
    return near


def check(
    got: torch.Tensor, batch: Batch, *, threshold: float = 0.5, exact: bool = True,
    margin: float = MARGIN,
) -> None:  # fmt: skip
    want = definition(batch, threshold=threshold, exact=exact)
    assert got.dtype == torch.uint8
    assert got.shape == want.shape
    flips = got != want
    wrong = flips & ~unclear(batch, threshold=threshold, exact=exact, margin=margin)
    assert not wrong.any(), f"{int(wrong.sum())} of {int(flips.sum())} differing pixels are clear"
    assert flips.sum() <= 2 + 1e-4 * want.numel()


@given(batches(), st.sampled_from([0.5, 0.2, 0.8]), st.booleans())
def test_host_equals_the_definition(batch, threshold, exact):
    arrays = batch.probabilities.numpy(), batch.valid_count.numpy()
    sizes, options = batch[2:], {"mask_threshold": threshold, "exact": exact}
    got = render_masks(*arrays, *sizes, **options)
    check(torch.from_numpy(got), batch, threshold=threshold, exact=exact)
    words = render_masks(*arrays, *sizes, packed=True, **options)
    assert words.dtype == np.uint32
    assert np.array_equal(unpack(torch.from_numpy(words), got.shape[-1]), got)


@given(batches(most_images=1))
def test_masks_of_one_image_on_the_host_equal_the_definition(batch):
    count = int(batch.valid_count[0])
    probabilities = batch.probabilities[0].numpy()
    masks = resize.render_masks(probabilities, batch.resized[0], batch.original[0], 0.5)
    masks[count:] = False
    check(torch.from_numpy(masks.astype(np.uint8))[None], batch)


@given(batches(), st.sampled_from([0.5, 0.2, 0.8]), st.booleans())
def test_float32_stays_near_the_definition(batch, threshold, exact):
    sizes, options = batch[2:], {"mask_threshold": threshold, "exact": exact}
    got = render_masks(*batch[:2], *sizes, backend="torch", **options)
    check(got, batch, threshold=threshold, exact=exact, margin=MARGIN_OF_FLOAT32)
    words = render_masks(*batch[:2], *sizes, backend="torch", packed=True, **options)
    assert words.dtype == torch.uint32
    assert torch.equal(unpack(words, got.shape[-1]), got)


@settings(max_examples=12)
@given(batches(), st.sampled_from([0.5, 0.2, 0.8]), st.booleans())
def test_triton_equals_the_definition(device, batch, threshold, exact):
    batch = batch.to(device)
    options = {"threshold": threshold, "exact": exact}
    (got,) = triton_render(batch, **options)
    check(got, batch, **options)
    (words,) = triton_render(batch, packed=True, **options)
    assert words.dtype == torch.uint32
    assert words.shape[-1] == -(-got.shape[-1] // 32)
    assert torch.equal(unpack(words, got.shape[-1]), got.cpu())
    # Behind the last column there is nothing.
    assert not unpack(words, 32 * words.shape[-1])[..., got.shape[-1] :].any()


@pytest.mark.parametrize("packed", [False, True])
def test_the_tile_changes_nothing(packed, device):
    batch = Batch(
        smooth((1, 1, 9, 13), seed=5), torch.tensor([1]).int(), [(33, 49)], [(25, 150)]
    ).to(device)
    first, *others = (
        triton_render(batch, packed=packed, tile=Tile({"BLOCK_Y": y, "BLOCK_X": x}))[0].tolist()
        for y, x in ((32, 256), (16, 32), (8, 64))
    )
    assert first == others[0] == others[1]


@pytest.mark.parametrize("exact", [True, False])
def test_public_operation_with_triton(exact, device):
    """Here with float16, other integers and sizes that are no tuples."""
    sizes = np.array([[30, 41], [8, 52]]), [[23, 83], [31, 33]]
    probabilities = smooth((2, 2, 8, 13), seed=3).half().to(device)
    count = torch.tensor([1, 2], device=device)
    masks = render_masks(probabilities, count, *sizes, exact=exact, backend="triton")
    batch = Batch(probabilities.float(), count, sizes[0].tolist(), sizes[1])
    check(masks, batch, exact=exact)
    words = render_masks(probabilities, count, *sizes, exact=exact, packed=True, backend="triton")
    assert torch.equal(unpack(words, 83), masks.cpu())


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("backend", ["numpy", "torch", "triton"])
def test_no_masks_and_no_valid_ones(backend, packed, device):
    sizes = [(30, 41)], [(25, 70)]
    last = 3 if packed else 70
    for count in (0, 2):
        probabilities = torch.ones(1, count, 8, 12, device=device)
        valid = torch.zeros(1, dtype=torch.int32, device=device)
        got = render_masks(probabilities, valid, *sizes, packed=packed, backend=backend)
        assert got.shape == (1, count, 25, last)
        assert got.dtype == (torch.uint32 if packed else torch.uint8)
        assert not got.to(torch.int64).any()


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("backend", ["numpy", "torch", "triton"])
def test_nan_is_never_inside(backend, exact, device):
    probabilities = torch.full((1, 3, 8, 8), 0.9, device=device)
    probabilities[0, 1] = float("nan")
    probabilities[0, 2, 2:4, 5] = float("nan")
    count = torch.tensor([3], device=device)
    sizes = [(32, 32)], [(64, 64)]
    got = render_masks(probabilities, count, *sizes, exact=exact, backend=backend)
    assert got[0, 0].all()
    assert not got[0, 1].any()
    # Their own 8 output pixels each, 4 more on each side in one step, and 5 in two.
    more = 5 if exact else 4
    outside = torch.zeros(64, 64, dtype=torch.bool, device=device)
    outside[16 - more : 32 + more, 40 - more : 48 + more] = True
    assert torch.equal(got[0, 2] == 0, outside)


def test_what_lies_only_in_the_padding_is_in_no_mask(device):
    probabilities = torch.zeros(1, 2, 8, 8)
    probabilities[0, 0, 5:] = 1.0  # below the image, and one row of pixels away from it
    probabilities[0, 1, :, 7] = 1.0  # at its right, likewise
    batch = Batch(probabilities, torch.tensor([2]).int(), [(16, 24)], [(40, 31)]).to(device)
    for exact in (True, False):
        masks, boxes = triton_render(batch, exact=exact, outputs=("masks", "boxes"))
        assert not masks.any()
        assert not boxes.any()
        assert not definition(batch, exact=exact).any()


def test_one_step_keeps_the_padding_out():
    # The image ends at row 14: the fourth row of pixels is half inside, the fifth wholly outside.
    probabilities = torch.zeros(1, 6, 5, dtype=torch.float64)
    probabilities[:, :4] = 1.0
    one_step = reference_render.resize_probabilities(
        probabilities, (14, 20), (140, 20), exact=False
    )
    assert (one_step == 1.0).all()
    two_steps = reference_render.resize_probabilities(
        probabilities, (16, 20), (160, 20), exact=True
    )
    assert (two_steps[:, -1] < 0.7).all()


def test_one_step_is_an_ordinary_bilinear_resize_where_nothing_is_padded():
    probabilities = smooth((1, 3, 9, 14), seed=2).double()
    got = reference_render.resize_probabilities(probabilities[0], (36, 56), (50, 31), exact=False)
    want = F.interpolate(probabilities, size=(50, 31), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("original", [(60, 93), (17, 13)])
def test_boxes_hold_every_pixel_and_little_more(original, exact, device):
    y, x = np.mgrid[:15, :20]
    circle = np.exp(-((y - 6) ** 2 + (x - 12) ** 2) / 8.0).astype(np.float32)
    resized = (57, 80)
    batch = Batch(
        torch.from_numpy(circle)[None, None], torch.tensor([1]).int(), [resized], [original]
    ).to(device)
    masks, boxes = triton_render(batch, exact=exact, outputs=("masks", "boxes"))
    top, bottom, left, right = boxes[0, 0].tolist()
    for start, stop, axis in ((top, bottom, 1), (left, right, 0)):
        inside = masks[0, 0].any(axis).nonzero()
        # Two low-resolution pixels at each end, and rounding.
        slack = 2 * 4 * original[1 - axis] / resized[1 - axis] + 2
        assert inside.min() - slack <= start <= inside.min()
        assert inside.max() < stop <= inside.max() + 1 + slack


@settings(max_examples=12)
@given(batches(most_images=1), st.data(), st.booleans())
def test_boxes_hold_what_one_pixel_reaches(device, batch, data, exact):
    """However low the threshold; a tile hides it if a box is a little too small."""
    height, width = batch.probabilities.shape[2:]
    row, column = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    one = torch.zeros(1, 1, height, width)
    one[..., row, column] = 1.0
    batch = batch._replace(probabilities=one, valid_count=torch.tensor([1]).int()).to(device)
    options = {"threshold": 1e-4, "exact": exact}
    (boxes,) = triton_render(batch, outputs=("boxes",), **options)
    top, bottom, left, right = boxes[0, 0].tolist()
    mask = definition(batch, **options)[0, 0]
    mask[top:bottom, left:right] = 0
    assert not mask.any()


@pytest.mark.gpu
def test_a_captured_graph_reads_the_sizes_when_it_is_replayed(device):
    if device.type != "cuda":
        pytest.skip("needs a CUDA GPU")
    plan = render_plan(
        RenderSizes(1, 2, 16, 16, 70, 90), Tiles(), mask_threshold=0.5, exact=True, packed=False
    )
    first = Batch(
        smooth((1, 2, 16, 16), seed=1), torch.tensor([1]).int(), [(64, 50)], [(70, 90)]
    ).to(device)
    second = Batch(
        smooth((1, 2, 16, 16), seed=2), torch.tensor([2]).int(), [(33, 64)], [(70, 41)]
    ).to(device)
    inputs = {
        "probabilities": first.probabilities.clone(),
        "valid_count": first.valid_count.clone(),
        "image_sizes": torch.tensor([[64, 50, 70, 90]], dtype=torch.int32, device=device),
    }
    run_plan(plan, inputs)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        masks = run_plan(plan, inputs)["masks"]
    graph.replay()
    check(masks, first)
    inputs["probabilities"].copy_(second.probabilities)
    inputs["valid_count"].copy_(second.valid_count)
    inputs["image_sizes"].copy_(torch.tensor([[33, 64, 70, 41]]))
    graph.replay()
    assert not masks[..., 41:].any()
    check(masks[..., :41], second)


@pytest.mark.slow
@pytest.mark.parametrize("exact", [True, False])
def test_real_size(exact, device):
    """Masks of a 448 x 768 network on frames of 1080 x 1920 and of 640 x 427."""
    probabilities = smooth((2, 3, 112, 192), seed=9)
    count = torch.tensor([3, 2]).int()
    batch = Batch(probabilities, count, [(432, 768), (448, 299)], [(1080, 1920), (640, 427)])
    batch = batch.to(device)
    check(triton_render(batch, exact=exact, tile=LARGEST)[0], batch, exact=exact)


GOOD = {
    "probabilities": np.zeros((2, 3, 4, 5), dtype=np.float32),
    "valid_count": np.array([1, 2]),
    "resized_sizes": [(16, 20), (3, 7)],
    "original_sizes": [(10, 10), (20, 5)],
}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"probabilities": np.zeros((2, 3, 4), dtype=np.float32)}, r"floats \[B, M, h, w\]"),
        ({"probabilities": np.zeros((2, 3, 4, 5), dtype=np.int32)}, r"floats \[B, M, h, w\]"),
        ({"probabilities": np.zeros((2, 3, 4, 0), dtype=np.float32)}, r"floats \[B, M, h, w\]"),
        ({"probabilities": np.zeros((0, 3, 4, 5), dtype=np.float32)}, "at least one image"),
        ({"valid_count": np.array([1.0, 2.0])}, r"integers \[2\]"),
        ({"valid_count": np.array([1])}, r"integers \[2\]"),
        ({"resized_sizes": [(16, 20)]}, "one entry for each of 2 images, got 1"),
        ({"resized_sizes": [(16, 21), (3, 7)]}, "do not cover an image of"),
        ({"original_sizes": [(10, 10), (0, 5)]}, "from 1 to 16384"),
        ({"original_sizes": [(10, 10), (20, 16385)]}, "from 1 to 16384"),
        ({"original_sizes": [(10, 10), (20, 5, 3)]}, r"\(height, width\)"),
        ({"original_sizes": [(10, 10), (20, 5.0)]}, r"\(height, width\)"),
        ({"original_sizes": [(10, 10), 20]}, r"\(height, width\)"),
        ({"mask_threshold": 0.0}, r"in \(0, 1\)"),
        ({"mask_threshold": float("nan")}, r"in \(0, 1\)"),
        ({"backend": "cuda"}, "backend must be one of"),
    ],
)
def test_wrong_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        render_masks(**{**GOOD, **wrong})


def test_kinds_of_arrays_are_not_mixed():
    with pytest.raises(TypeError, match="got both"):
        render_masks(**{**GOOD, "valid_count": torch.tensor([1, 2])})

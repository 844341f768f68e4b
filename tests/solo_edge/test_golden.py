"""The model, the targets, the losses and the final instances equal the authors' implementation."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import solo_edge
import solo_edge.kernels
from solo_edge.config import PostprocessConfig
from solo_edge.losses import solov2_losses
from solo_edge.models.solov2 import SOLOv2, SOLOv2Output
from solo_edge.postprocess import postprocess_slots
from solo_edge.targets import assign_targets

LEVELS = 5


@dataclass
class Golden:
    arrays: dict[str, np.ndarray]
    model: SOLOv2
    output: SOLOv2Output

    def unpack(self, name: str, width: int) -> np.ndarray:
        return np.unpackbits(self.arrays[name], axis=-1, count=width)


@pytest.fixture(scope="module", params=["solov2_light_r18", "solov2_light_r50_dcn"])
def golden(
    request: pytest.FixtureRequest, shared: Path, tmp_path_factory: pytest.TempPathFactory
) -> Golden:
    recipe = json.loads((shared / f"golden/{request.param}.json").read_text())
    arrays = dict(np.load(shared / f"golden/{request.param}.npz"))
    path = tmp_path_factory.mktemp("golden") / "official.safetensors"
    save_file(weights_of(recipe), path)
    model = solo_edge.load_model(path)  # recognised by the authors' key names
    with torch.no_grad():
        output = model(torch.from_numpy(arrays["image"]))
    return Golden(arrays, model, output)


def weights_of(recipe: dict) -> dict[str, torch.Tensor]:
    """The recipe in golden/README.md."""
    rng = np.random.default_rng(recipe["seed"])
    weights = {}
    for key in sorted(recipe["state_dict"]):
        shape = recipe["state_dict"][key]
        z = rng.standard_normal(shape).astype(np.float32)
        if key.endswith("running_var"):
            value = 1 + 0.1 * abs(z)
        elif key.endswith("running_mean"):
            value = 0.1 * z
        elif z.ndim == 1 and key.endswith("weight"):
            value = 1 + 0.1 * z
        elif key == "bbox_head.solo_cate.bias":
            value = -4.6 + 0.3 * z + recipe["solo_cate_bias_offset"]
        elif z.ndim == 1:
            value = 0.1 * z
        elif "conv_offset" in key:
            value = 0.02 * z
        elif key == "bbox_head.solo_cate.weight":
            value = z * np.float32(0.5 * np.sqrt(2 / np.prod(shape[1:])))
        else:
            value = z * np.float32(np.sqrt(2 / np.prod(shape[1:])))
        weights[key] = torch.from_numpy(np.asarray(value, dtype=np.float32))
    return weights


def relative_error(ours: torch.Tensor, theirs: np.ndarray) -> float:
    """Largest difference relative to the largest value."""
    theirs = theirs.astype(np.float32)
    return float(np.abs(ours.numpy() - theirs).max() / np.abs(theirs).max())


def test_network(golden: Golden) -> None:
    for i in range(LEVELS):
        assert (
            relative_error(golden.output.category_logits[i], golden.arrays[f"cate_logits_{i}"])
            < 1e-4
        )
        assert relative_error(golden.output.mask_kernels[i], golden.arrays[f"kernels_{i}"]) < 1e-4
    # Stored as float16.
    assert relative_error(golden.output.mask_features, golden.arrays["mask_features"]) < 1e-3


def ground_truth(golden: Golden) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    masks = golden.unpack("gt_masks", golden.arrays["image"].shape[3])
    return masks, golden.arrays["gt_boxes"], golden.arrays["gt_labels"].astype(np.int64) - 1


def test_targets(golden: Golden) -> None:
    config = golden.model.config
    targets = assign_targets(*ground_truth(golden), config)
    quarter_width = golden.arrays["image"].shape[3] // 4
    first = 0
    for i, size in enumerate(config.grid_sizes):
        last = first + size * size
        # Theirs: 0 is background and classes count from 1.
        category = np.where(targets.category == config.num_classes, 0, targets.category + 1)
        expected = golden.arrays[f"target_cate_{i}"]
        np.testing.assert_array_equal(category[first:last].reshape(size, size), expected)
        here = (targets.cells >= first) & (targets.cells < last)
        order = golden.arrays[f"target_grid_order_{i}"]
        np.testing.assert_array_equal(targets.cells[here] - first, order)
        masks = golden.unpack(f"target_masks_{i}", quarter_width)
        np.testing.assert_array_equal(targets.masks[targets.instances[here]], masks)
        first = last


def test_losses(golden: Golden) -> None:
    targets = assign_targets(*ground_truth(golden), golden.model.config)
    dice, focal = solov2_losses(golden.output, [targets])
    assert dice.item() == pytest.approx(float(golden.arrays["loss_ins"]), rel=1e-4)
    assert focal.item() == pytest.approx(float(golden.arrays["loss_cate"]), rel=1e-4)


def test_instances(golden: Golden) -> None:
    image_size = tuple(int(x) for x in golden.arrays["img_shape"])
    original_size = tuple(int(x) for x in golden.arrays["ori_shape"])
    # As many candidates as there are scores over the threshold: the reference has no limit before its
    # area filter.
    found = solo_edge.postprocess(
        golden.output, [image_size], [original_size], max_candidates=100_000
    )[0]
    np.testing.assert_array_equal(found.labels, golden.arrays["final_labels"])
    np.testing.assert_allclose(found.scores, golden.arrays["final_scores"], rtol=1e-4)
    theirs = golden.unpack("final_masks", original_size[1]).astype(bool)
    both = (found.masks & theirs).sum((1, 2))
    either = (found.masks | theirs).sum((1, 2))
    assert (both / np.maximum(either, 1)).min() >= 0.999


@pytest.mark.slow
def test_instances_of_the_kernels(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Triton chain end to end: slots, then masks at the original size."""
    from solo_edge.kernels._triton import operations
    from solo_edge.kernels.tiles import Tiles, tiles_from_dict

    device = "cuda" if torch.cuda.is_available() else "cpu"
    # The interpreter's time goes by operations, not by their sizes.
    large = {
        "dynamic_conv_pack": {"constants": {"BLOCK_N": 128, "BLOCK_P": 2048, "BLOCK_E": 128}},
        "mask_overlap": {
            "constants": {"BLOCK_I": 64, "BLOCK_J": 64, "BLOCK_W": 32, "METHOD": "popc"}
        },
    }
    tiles = Tiles() if device == "cuda" else tiles_from_dict(large)
    monkeypatch.setattr(operations, "tiles_for", lambda _: tiles)
    output = SimpleNamespace(
        category_logits=[x.to(device) for x in golden.output.category_logits],
        mask_kernels=[x.to(device) for x in golden.output.mask_kernels],
        mask_features=golden.output.mask_features.to(device),
        strides=golden.output.strides,
    )
    candidates = solo_edge.kernels.select_candidates(
        [x.sigmoid() for x in golden.output.category_logits], max_candidates=4096
    )
    count = int(candidates.valid_count[0])
    assert count < 4096  # all of them fit
    config = PostprocessConfig(max_candidates=count)
    slots = postprocess_slots(output, config, backend="triton")
    found = int(slots.valid_count[0])
    labels, scores = slots.labels[0, :found].cpu(), slots.scores[0, :found].cpu()
    np.testing.assert_array_equal(labels, golden.arrays["final_labels"])
    np.testing.assert_allclose(scores, golden.arrays["final_scores"], rtol=1e-4)
    original_size = tuple(int(x) for x in golden.arrays["ori_shape"])
    masks = solo_edge.kernels.render_masks(
        slots.probabilities,
        slots.valid_count,
        [tuple(int(x) for x in golden.arrays["img_shape"])],
        [original_size],
        backend="triton",
    )
    ours = masks[0, :found].cpu().numpy().astype(bool)
    theirs = golden.unpack("final_masks", original_size[1]).astype(bool)
    both, either = (ours & theirs).sum((1, 2)), (ours | theirs).sum((1, 2))
    assert (both / np.maximum(either, 1)).min() >= 0.999

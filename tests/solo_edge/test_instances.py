from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from solo_edge.errors import ResourceError
from solo_edge.instances import Instances, LazyMasks, _runs
from solo_edge.kernels.resize import Region
from solo_edge.preprocess import Geometry

GEOMETRY = Geometry((90, 131), (55, 80), (64, 80))
NAMES = ("cat", "dog", "bird")


def lazy(count: int = 5, seed: int = 0) -> LazyMasks:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:16, :20]
    masks = [
        np.exp(-np.hypot(y - rng.uniform(0, 14), x - rng.uniform(0, 20)) / rng.uniform(2, 8))
        for _ in range(count)
    ]
    return LazyMasks(np.array(masks, dtype=np.float32).reshape(count, 16, 20), GEOMETRY, 0.4)


def instances(masks=None) -> Instances:
    masks = lazy() if masks is None else masks
    scores = np.linspace(0.9, 0.5, 5)[: len(masks)]
    labels = np.array([0, 2, 1, 0, 1])[: len(masks)]
    size = GEOMETRY.original_size
    return Instances(scores, labels, masks, class_names=NAMES, image_size=size)


def test_lazy_and_ready_masks_agree():
    first = instances()
    second = instances(first.masks.copy())
    assert first.masks.shape == (5, 90, 131)
    assert first.masks.dtype == bool
    assert first.masks is first.masks
    # boxes and areas once from regions, once from whole masks
    np.testing.assert_array_equal(instances().boxes, second.boxes)
    np.testing.assert_array_equal(instances().areas, second.areas)
    np.testing.assert_array_equal(second.areas, first.masks.sum((1, 2)))
    assert instances().to_coco(1) == second.to_coco(1)
    assert first.scores.dtype == first.boxes.dtype == np.float32
    assert first.labels.dtype == np.int64


def test_boxes_are_tight_and_end_exclusive():
    masks = np.zeros((3, 90, 131), dtype=bool)
    masks[0, 10:20, 30:50] = True
    masks[1, 89, 130] = True
    found = instances(masks)
    assert found.boxes.tolist() == [[30, 10, 50, 20], [130, 89, 131, 90], [0, 0, 0, 0]]
    assert found.areas.tolist() == [200, 1, 0]


def test_regions_cover_the_masks_without_rendering_all():
    found = instances()
    for region, mask in zip(found.regions(), lazy().render(), strict=True):
        whole = np.zeros_like(mask)
        rows, columns = region.mask.shape
        whole[region.top : region.top + rows, region.left : region.left + columns] = region.mask
        np.testing.assert_array_equal(whole, mask)
        assert region.mask.size < mask.size
    assert "masks" not in vars(found)


@pytest.mark.parametrize("ready", [False, True])
@pytest.mark.parametrize(
    "index", [[3, 1], [True, False, True, False, False], slice(1, 3), 2, [], np.int64(4)]
)
def test_select(index, ready):
    found = instances(lazy().render() if ready else None)
    every = np.arange(5)
    rows = np.atleast_1d(every[index if np.size(index) else slice(0)])
    part = found.select(index)
    np.testing.assert_array_equal(part.scores, found.scores[rows])
    np.testing.assert_array_equal(part.labels, found.labels[rows])
    np.testing.assert_array_equal(part.masks, found.masks[rows])
    np.testing.assert_array_equal(part.boxes, found.boxes[rows])
    assert part.class_names == NAMES
    np.testing.assert_array_equal(lazy().render(index), found.masks[rows])


def test_repr_and_names():
    found = instances()
    assert repr(found) == (
        "<Instances: 5 in 90x131: cat 0.90, bird 0.80, dog 0.70, cat 0.60, 1 more>"
    )
    assert repr(found.select([])) == "<Instances: 0 in 90x131>"
    assert found.names == ["cat", "bird", "dog", "cat", "dog"]
    assert len(found) == 5


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
@pytest.mark.parametrize("package", ["faster_coco_eval.core.mask", "pycocotools.mask"])
def test_coco_results_decode_to_the_same_masks(package):
    mask_api = pytest.importorskip(package)
    found = instances()
    results = found.to_coco(42, category_ids=(7, 3, 90))
    assert [result["category_id"] for result in results] == [7, 90, 3, 7, 3]
    assert [result["category_id"] for result in found.to_coco(42)] == [1, 3, 2, 1, 2]
    for result, mask, score in zip(
        json.loads(json.dumps(results)), found.masks, found.scores, strict=True
    ):
        assert result["image_id"] == 42
        assert result["score"] == score
        np.testing.assert_array_equal(mask_api.decode(result["segmentation"]), mask)
        np.testing.assert_array_equal(mask_api.toBbox(result["segmentation"]), result["bbox"])


def encode_plainly(mask: np.ndarray) -> list[int]:
    counts, inside, run = [], False, 0
    for pixel in mask.T.reshape(-1):
        if pixel != inside:
            counts.append(run)
            inside, run = pixel, 0
        run += 1
    return [*counts, run]


@pytest.mark.parametrize("seed", range(30))
def test_run_lengths_equal_a_plain_scan(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 9, 2)
    rows, columns = rng.integers(0, height + 1), rng.integers(0, width + 1)
    top, left = rng.integers(0, height - rows + 1), rng.integers(0, width - columns + 1)
    region = Region(int(top), int(left), rng.random((rows, columns)) < rng.choice([0.3, 0.9, 1.0]))
    mask = np.zeros((height, width), dtype=bool)
    mask[top : top + rows, left : left + columns] = region.mask
    assert _runs(region, (int(height), int(width))) == encode_plainly(mask)


def test_full_and_empty_masks_in_coco_results():
    from faster_coco_eval.core import mask as mask_api

    masks = np.stack([np.ones((90, 131), bool), np.zeros((90, 131), bool)])
    full, empty = instances(masks).to_coco(1)
    assert mask_api.decode(full["segmentation"]).all()
    assert full["bbox"] == [0.0, 0.0, 131.0, 90.0]
    assert not mask_api.decode(empty["segmentation"]).any()
    assert empty["bbox"] == [0.0, 0.0, 0.0, 0.0]
    assert instances(masks[:0]).to_coco(1) == []


def test_coco_results_name_the_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval.core", None)
    with pytest.raises(ResourceError, match="pip install faster-coco-eval"):
        instances().to_coco(1)


def test_mistakes_are_named():
    masks, size = lazy().render(), (90, 131)
    scores, labels = np.ones(5), np.zeros(5)
    with pytest.raises(ValueError, match=r"masks must be bool \[N, H, W\], got uint8"):
        Instances(scores, labels, masks.astype(np.uint8), class_names=NAMES, image_size=size)
    with pytest.raises(
        ValueError, match=r"masks are of size \(90, 131\), the image is \(91, 131\)"
    ):
        Instances(scores, labels, masks, class_names=NAMES, image_size=(91, 131))
    with pytest.raises(ValueError, match=r"must be \[5\] like masks"):
        Instances(scores[1:], labels, masks, class_names=NAMES, image_size=size)
    with pytest.raises(ValueError, match="labels reach from 0 to 3, but there are 3 class names"):
        Instances(scores, np.array([0, 1, 2, 3, 0]), masks, class_names=NAMES, image_size=size)
    with pytest.raises(ValueError, match="are smaller than the image"):
        LazyMasks(np.zeros((1, 12, 20), np.float32), GEOMETRY)

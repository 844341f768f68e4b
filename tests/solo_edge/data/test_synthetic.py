"""Synthetic scenes: reproducible, annotated exactly, and never written over somebody's files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from faster_coco_eval.core import mask as coco_mask
from PIL import Image

from solo_edge.data.synthetic import (
    CLASS_NAMES,
    SceneAnimation,
    make_dataset,
    render_scene,
    render_video,
)
from solo_edge.data.synthetic.curves import box
from solo_edge.data.synthetic.dataset import scene_rng
from solo_edge.data.synthetic.objects import build
from solo_edge.data.synthetic.parts import Blueprint, Light, Part
from solo_edge.data.synthetic.sprite import render_sprite
from solo_edge.errors import UsageError

LAMP = Light((0.0, 0.0, 1.0), (1.0, 1.0, 1.0), (0.3, 0.3, 0.3), 0.5)


def scene(index: int, size: tuple[int, int] = (256, 256)):
    return render_scene(scene_rng(0, "train", index), size)


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "scenes"
    make_dataset(out, 6, 3, size=(128, 160), val_images=2, workers=1)
    return out


def test_equal_seeds_give_equal_scenes():
    one, other = scene(0), scene(0)
    np.testing.assert_array_equal(one.image, other.image)
    np.testing.assert_array_equal(one.masks, other.masks)
    np.testing.assert_array_equal(one.labels, other.labels)


def test_images_splits_and_seeds_differ():
    images = [
        render_scene(scene_rng(seed, split, index), (64, 64)).image.tobytes()
        for seed in (0, 1)
        for split in ("train", "val")
        for index in (0, 1)
    ]
    assert len(set(images)) == len(images)


@pytest.mark.parametrize("size", [(256, 256), (120, 200), (96, 64)])
def test_scenes_keep_their_promises(size):
    unit = min(size) / 256.0
    for index in range(6):
        result = scene(index, size)
        assert result.image.shape == (*size, 3)
        assert result.image.dtype == np.uint8
        assert result.masks.dtype == bool
        assert result.masks.shape == (len(result.labels), *size)
        assert 3 <= len(result.labels) <= 9
        assert result.labels.min() >= 0
        assert result.labels.max() < len(CLASS_NAMES)
        assert result.masks.sum(axis=0).max() <= 1, "masks overlap"
        assert result.masks.sum(axis=(1, 2)).min() >= 150 * unit**2


def test_every_class_appears_and_objects_cover_each_other():
    scenes = [scene(index) for index in range(24)]
    seen = {label for result in scenes for label in result.labels.tolist()}
    assert seen == set(range(len(CLASS_NAMES)))
    touching = 0
    for result in scenes:
        grown = [mask | np.roll(mask, 1, 0) | np.roll(mask, 1, 1) for mask in result.masks]
        touching += int((np.sum(grown, axis=0) > 1).any())
    assert touching > 6


def test_a_mask_is_what_the_object_changes():
    """Where the mask is, the picture is the object's; elsewhere at most its shadow and its edge are."""
    blueprint = Blueprint(
        (Part((box(-0.5, -0.3, 0.5, 0.3),), (0.9, 0.0, 0.0)),),
        np.zeros((8, 8), np.float32),
        np.zeros((8, 8), np.float32),
    )
    sprite = render_sprite(blueprint, 40.0, 0.0, LAMP, offset=(0.0, 0.0))
    assert sprite.mask.sum() == 40 * 24
    rows, columns = np.nonzero(sprite.mask)
    assert (rows.min() + sprite.origin[0], rows.max() + sprite.origin[0]) == (-12, 11)
    assert (columns.min() + sprite.origin[1], columns.max() + sprite.origin[1]) == (-20, 19)
    assert sprite.colour[sprite.mask][:, 0].min() > 0.2
    assert sprite.colour[sprite.alpha == 0.0].max() == 0.0


@pytest.mark.parametrize("label", range(len(CLASS_NAMES)), ids=CLASS_NAMES)
def test_objects_have_the_asked_length_at_any_angle(label):
    rng = np.random.default_rng(label)
    for _ in range(5):
        blueprint = build(label, rng)
        upright = render_sprite(blueprint, 60.0, 0.0, LAMP)
        rows, columns = np.nonzero(upright.mask)
        long = max(np.ptp(rows), np.ptp(columns)) + 1
        assert long == pytest.approx(60.0, abs=2.0)
        turned = render_sprite(blueprint, 60.0, rng.uniform(0.0, 6.3), LAMP, mirrored=True)
        assert turned.mask.sum() == pytest.approx(upright.mask.sum(), rel=0.05)
        assert np.isfinite(turned.colour).all()
        assert turned.colour.min() >= 0.0
        # The margin leaves room for the antialiased edge on every side.
        edge = np.concatenate([turned.alpha[[0, -1]].ravel(), turned.alpha[:, [0, -1]].ravel()])
        assert edge.max() == 0.0


def test_too_small_a_scene_is_refused():
    with pytest.raises(ValueError, match="64"):
        render_scene(np.random.default_rng(0), (63, 256))


# pycocotools hands its arrays to NumPy in the way of NumPy 1.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_dataset_is_coco(dataset):
    from pycocotools.coco import COCO

    for split, count in (("train", 6), ("val", 2)):
        coco = COCO(str(dataset / f"{split}.json"))
        assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(
            CLASS_NAMES
        )
        assert coco.getCatIds() == list(range(1, len(CLASS_NAMES) + 1))
        assert len(coco.getImgIds()) == count
        assert len(list((dataset / split).iterdir())) == count
        for image in coco.loadImgs(coco.getImgIds()):
            with Image.open(dataset / split / image["file_name"]) as picture:
                assert picture.format == "JPEG"
                assert picture.size == (image["width"], image["height"]) == (160, 128)
        for annotation in coco.loadAnns(coco.getAnnIds()):
            mask = coco.annToMask(annotation)
            assert mask.sum() == annotation["area"]
            rows, columns = np.nonzero(mask)
            left, top, width, height = annotation["bbox"]
            assert (left, top) == (columns.min(), rows.min())
            assert (left + width, top + height) == (columns.max() + 1, rows.max() + 1)
            assert annotation["iscrowd"] == 0


def test_annotations_are_the_masks_of_the_scene(dataset):
    content = json.loads((dataset / "val.json").read_text("utf-8"))
    assert content["info"]["seed"] == 3
    for image in content["images"]:
        expected = render_scene(scene_rng(3, "val", image["id"] - 1), (128, 160))
        found = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        codes = [
            {"size": a["segmentation"]["size"], "counts": a["segmentation"]["counts"].encode()}
            for a in found
        ]
        masks = np.stack([coco_mask.decode(code) for code in codes]).astype(bool)
        np.testing.assert_array_equal(masks, expected.masks)
        assert [a["category_id"] - 1 for a in found] == expected.labels.tolist()


def test_bytes_do_not_depend_on_the_number_of_processes(dataset, tmp_path):
    make_dataset(tmp_path / "two", 6, 3, size=(128, 160), val_images=2, workers=2)
    assert files_of(tmp_path / "two") == files_of(dataset)


def test_a_larger_set_begins_with_the_smaller_one(dataset, tmp_path):
    seen = []
    make_dataset(
        tmp_path / "less",
        2,
        3,
        size=(128, 160),
        workers=1,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]
    less, more = files_of(tmp_path / "less"), files_of(dataset)
    pictures = [name for name in less if name.endswith(".jpg")]
    assert len(pictures) == 3
    assert all(less[name] == more[name] for name in pictures)


def test_what_is_there_is_not_overwritten(tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(UsageError, match="already exists"):
        make_dataset(tmp_path, 1, 0, size=(64, 64))
    file = tmp_path / "precious.txt"
    with pytest.raises(UsageError, match="already exists"):
        make_dataset(file, 1, 0, size=(64, 64))
    assert files_of(tmp_path) == {"precious.txt": b"mine"}
    make_dataset(tmp_path / "new", 1, 0, size=(64, 64))
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "train",
        "train.json",
        "val",
        "val.json",
    ]


def test_an_interrupted_set_leaves_nothing_behind(tmp_path):
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_dataset(tmp_path / "scenes", 2, 0, size=(64, 64), workers=1, progress=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("images", "seed", "options"),
    [(0, 0, {}), (1, -1, {}), (1, 0, {"size": (32, 256)}), (1, 0, {"val_images": 0})],
)
def test_senseless_numbers_are_refused(tmp_path, images, seed, options):
    with pytest.raises(UsageError):
        make_dataset(tmp_path / "scenes", images, seed, **options)
    assert list(tmp_path.iterdir()) == []


def test_animation_depends_on_its_time_alone_and_closes():
    animation = SceneAnimation(5, (96, 128))
    later, _ = animation.frame(2.5)
    first, first_scene = animation.frame(0.0)
    again, _ = SceneAnimation(5, (96, 128)).frame(2.5)
    np.testing.assert_array_equal(later, again)
    np.testing.assert_array_equal(animation.frame(animation.period)[0], first)
    assert np.abs(first.astype(int) - later).mean() > 2.0
    assert first_scene.image is first
    assert first_scene.masks.shape == (len(first_scene.labels), 96, 128)
    assert first_scene.masks.any(axis=(1, 2)).all()
    assert first_scene.masks.sum(axis=0).max() <= 1


def test_animation_moves_smoothly_and_objects_come_and_go():
    animation = SceneAnimation(2, (96, 96))
    counts = {len(animation.frame(t)[1].labels) for t in np.arange(0.0, animation.period, 1.0)}
    assert len(counts) > 1
    near = [animation.frame(t)[0].astype(int) for t in (4.0, 4.04, 5.0)]
    assert np.abs(near[1] - near[0]).mean() < 0.5 * np.abs(near[2] - near[0]).mean()


def test_an_object_keeps_its_identity_until_it_leaves():
    """From frame to frame the same number is at the same place; who comes again comes as another."""
    animation = SceneAnimation(2, (96, 96))
    seen: dict[int, list[float]] = {}
    previous: dict[int, np.ndarray] = {}
    for t in np.arange(0.0, 2 * animation.period, 0.2):
        _, found = animation.frame(t)
        assert len(set(found.identities.tolist())) == len(found.labels)
        places = {
            identity: np.argwhere(mask).mean(axis=0)
            for identity, mask in zip(found.identities.tolist(), found.masks, strict=True)
            if mask.sum() > 60
        }
        for identity, place in places.items():
            seen.setdefault(identity, []).append(t)
            if identity in previous:
                assert np.linalg.norm(place - previous[identity]) < 16
        previous = places
    spans = {identity: times[-1] - times[0] for identity, times in seen.items()}
    assert sum(span > 1.5 * animation.period for span in spans.values()) == 6  # those that stay
    crossing = [span for span in spans.values() if span <= 1.5 * animation.period]
    assert len(crossing) > 3
    assert max(crossing) < animation.period


def test_a_single_picture_has_no_identities():
    assert scene(0).identities is None


def test_video_holds_the_frames_of_the_animation(tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "film.mp4"
    render_video(path, 5, 1, size=(96, 128), fps=10.0)
    assert [p.name for p in tmp_path.iterdir()] == ["film.mp4"]
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert float(stream.average_rate) == 10.0
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(frames) == 5
    animation = SceneAnimation(1, (96, 128))
    for index, frame in enumerate(frames):
        expected = animation.frame(index / 10.0)[0].astype(int)
        # Chroma is stored at half resolution, and the encoder smooths the sensor's noise.
        assert np.abs(frame - expected).mean() < 8.0


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("film.txt", {}),
        ("film.mp4", {"size": (97, 128)}),
        ("film.mp4", {"fps": 0.0}),
        ("film.mp4", {"frames": 0}),
    ],
)
def test_impossible_films_are_refused(tmp_path, name, options):
    values = {"frames": 1, "seed": 0, "size": (64, 64), "fps": 5.0} | options
    with pytest.raises(UsageError):
        render_video(tmp_path / name, **values)
    assert list(tmp_path.iterdir()) == []

"""A synthetic data set in COCO's format: the same bytes for a seed, however many processes make it."""

from __future__ import annotations

import functools
import io
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solo_edge.data.synthetic.objects import CLASS_NAMES
from solo_edge.data.synthetic.scene import Scene, render_scene
from solo_edge.errors import ResourceError, UsageError
from solo_edge.files import atomic_folder

__all__ = ["GENERATOR_VERSION", "make_dataset", "scene_rng"]

GENERATOR_VERSION = 1  # goes up whenever the same seed gives another picture
_JPEG_QUALITY = 92
_SPLITS = ("train", "val")
_CHUNK = 8  # scenes that a process renders at a time


def make_dataset(
    out: Path,
    images: int,
    seed: int,
    *,
    size: tuple[int, int] = (256, 256),
    val_images: int | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Render scenes into OUT/train.json + OUT/train/*.jpg and OUT/val.json + OUT/val/*.jpg.

    The folder appears when it is complete. Image i of a split depends on `seed`, `size` and i alone:
    a larger set begins with the images of a smaller one, and the splits never share a scene. Other
    versions of NumPy or OpenCV, or another processor, may round a few pixels differently.

    With more than one worker, processes are started by `spawn`: a script that calls this needs the
    usual `if __name__ == "__main__":`.

    Args:
        out: the folder to make; it may exist if it is empty.
        images: number of training images.
        seed: not negative.
        size: (height, width) of every image in pixels, at least 64 each.
        val_images: number of validation images; a tenth of `images`, at least one, by default.
        workers: processes; by default as many as there are processors, and one for a small set.
        progress: called with (images done, images in all) after every image.

    Raises:
        UsageError: a number that makes no sense, or `out` holds something.
        ResourceError: `out` cannot be written, or a rendering process died.
    """
    val_images = max(1, images // 10) if val_images is None else val_images
    _check_request(out, images, seed, size, val_images)
    tasks = [
        (split, index)
        for split, count in zip(_SPLITS, (images, val_images), strict=True)
        for index in range(count)
    ]
    if workers is None:
        workers = min(os.cpu_count() or 1, len(tasks) // 32)
    render = functools.partial(_render, seed=seed, size=size)
    contents: dict[str, dict[str, Any]] = {
        split: _empty_split(split, count, seed, size)
        for split, count in zip(_SPLITS, (images, val_images), strict=True)
    }
    with atomic_folder(out) as folder:
        for split in _SPLITS:
            (folder / split).mkdir()
        with _mapped(render, tasks, workers) as results:
            for done, ((split, index), (jpeg, annotations)) in enumerate(
                zip(tasks, results, strict=True), start=1
            ):
                _add(contents[split], folder / split, index, size, jpeg, annotations)
                if progress is not None:
                    progress(done, len(tasks))
        for split, content in contents.items():
            (folder / f"{split}.json").write_text(json.dumps(content) + "\n", "utf-8")


def scene_rng(seed: int, split: str, index: int) -> np.random.Generator:
    """Where the chance in one image comes from: independent of all other images and of their number."""
    key = (_SPLITS.index(split), index)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _check_request(
    out: Path, images: int, seed: int, size: tuple[int, int], val_images: int
) -> None:
    if images < 1 or val_images < 1:
        raise UsageError(f"{min(images, val_images)} images is too few", fix="ask for at least one")
    if seed < 0:
        raise UsageError(f"the seed {seed} is negative", fix="give a number from 0 on")
    if min(size) < 64:
        raise UsageError(
            f"images of {size[0]} x {size[1]} pixels are too small", fix="ask for at least 64 x 64"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(
            "already exists", where=out, fix="choose another folder or remove this one"
        )


def _empty_split(split: str, count: int, seed: int, size: tuple[int, int]) -> dict[str, Any]:
    return {
        "info": {
            "description": f"solo-edge synthetic table scenes, {split}",
            "version": str(GENERATOR_VERSION),
            "seed": seed,
            "images": count,
            "size": list(size),
            "command": f"solo-edge make-dataset OUT --seed {seed}",
        },
        "licenses": [],
        "images": [],
        "annotations": [],
        "categories": [
            {"id": label + 1, "name": name, "supercategory": "object"}
            for label, name in enumerate(CLASS_NAMES)
        ],
    }


def _add(
    content: dict[str, Any],
    folder: Path,
    index: int,
    size: tuple[int, int],
    jpeg: bytes,
    annotations: list[dict[str, Any]],
) -> None:
    """Write one image and list it with its annotations."""
    name = f"{index:06d}.jpg"
    (folder / name).write_bytes(jpeg)
    image_id = index + 1
    content["images"].append(
        {"id": image_id, "file_name": name, "height": size[0], "width": size[1]}
    )
    for annotation in annotations:
        number = len(content["annotations"]) + 1
        content["annotations"].append({"id": number, "image_id": image_id, **annotation})


@contextmanager
def _mapped(
    render: Callable[[tuple[str, int]], tuple[bytes, list[dict[str, Any]]]],
    tasks: list[tuple[str, int]],
    workers: int,
) -> Iterator[Iterable[tuple[bytes, list[dict[str, Any]]]]]:
    """The results in the tasks' order; what is not begun is given up when the block ends."""
    if workers <= 1:
        yield map(render, tasks)
        return
    pool = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_one_thread
    )
    try:
        yield pool.map(render, tasks, chunksize=_CHUNK)
    except BrokenProcessPool:
        raise ResourceError(
            "a rendering process died, for want of memory perhaps", fix="try again with workers=1"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _one_thread() -> None:
    """Keep OpenCV from starting threads in every process."""
    import cv2

    cv2.setNumThreads(1)


def _render(
    task: tuple[str, int], *, seed: int, size: tuple[int, int]
) -> tuple[bytes, list[dict[str, Any]]]:
    """One scene as a JPEG file's bytes and its annotations without ids."""
    scene = render_scene(scene_rng(seed, *task), size)
    return _jpeg(scene.image), _annotations(scene)


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def _annotations(scene: Scene) -> list[dict[str, Any]]:
    from faster_coco_eval.core import mask as coco_mask

    annotations = []
    for mask, label in zip(scene.masks, scene.labels.tolist(), strict=True):
        code = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        top, left = int(rows[0]), int(columns[0])
        annotations.append(
            {
                "category_id": label + 1,
                "segmentation": {
                    "size": list(mask.shape),
                    "counts": code["counts"].decode("ascii"),
                },
                "area": int(mask.sum()),
                "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
                "iscrowd": 0,
            }
        )
    return annotations

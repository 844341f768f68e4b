"""Images without annotations: calibration needs to know what the camera sees, not what is in it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from solo_edge.data.coco import CocoDataset, open_dataset
from solo_edge.data.formats import find_format
from solo_edge.errors import ResourceError, UsageError
from solo_edge.images import list_images, read_image

__all__ = ["ImageFolder", "open_images"]


class ImageFolder:
    """The images in a folder and the folders in it: by folder, then in natural order.

    Links are not followed: one may lead back up, or to images of the evaluation. Hidden folders are
    left out, and so is what is no image by its suffix.

    Args:
        path: the folder.

    Raises:
        UsageError: there are no images.
        ResourceError: no permission to list one of the folders.
    """

    def __init__(self, path: Path):
        self.path = path
        self._files: list[Path] = []
        links = others = 0
        for place, folders, names in os.walk(path, onerror=_refuse):
            linked = {name for name in (*folders, *names) if Path(place, name).is_symlink()}
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            images = [file for file in _images_in(Path(place)) if file.name not in linked]
            self._files += images
            links += len(linked)
            others += len(names) - len(linked.intersection(names)) - len(images)
        if not self._files:
            fix = "give a folder with images, with or without COCO annotations"
            raise UsageError("no images in this folder", where=path, fix=fix)
        self.warnings: list[str] = []
        if links or others:
            self.warnings.append(f"skipped in {path}: {links} links, {others} files of other kinds")

    def __len__(self) -> int:
        return len(self._files)

    def image_path(self, index: int) -> Path:
        return self._files[index]

    def image(self, index: int) -> NDArray[np.uint8]:
        """[H, W, 3] uint8 RGB, upright.

        Raises: as `solo_edge.read_image`.
        """
        return read_image(self._files[index])


def open_images(path: Path, split: str) -> CocoDataset | ImageFolder:
    """The part `split` of a data set, or all images of a folder that holds no annotations at all.

    A folder with annotations of other parts only is no plain folder: its images may well be those of
    the evaluation.

    Raises: as `solo_edge.data.coco.open_dataset` and `ImageFolder`.
    """
    if path.is_dir() and find_format(path) is None:
        return ImageFolder(path)
    return open_dataset(path, split)


def _images_in(folder: Path) -> list[Path]:
    try:
        return list_images(folder)
    except UsageError:  # none
        return []


def _refuse(error: OSError) -> NoReturn:
    what = f"cannot be listed ({error.strerror})"
    raise ResourceError(what, where=error.filename, fix="change the permissions") from error

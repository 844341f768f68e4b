"""Folders of images without annotations."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from PIL import Image

from solo_edge.calibration.folder import ImageFolder, open_images
from solo_edge.data.coco import CocoDataset
from solo_edge.errors import ResourceError, UsageError


def paint(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (value, 0, 0)).save(path)


def test_images_of_all_folders_come_in_natural_order(tmp_path):
    for name in ("b/2.png", "b/10.png", "a/x.jpg", "frame9.png", "frame10.png"):
        paint(tmp_path / name)
    folder = ImageFolder(tmp_path)
    names = [str(folder.image_path(i).relative_to(tmp_path)) for i in range(len(folder))]
    assert names == ["frame9.png", "frame10.png", "a/x.jpg", "b/2.png", "b/10.png"]
    assert folder.warnings == []
    assert folder.image(0).shape == (6, 8, 3)


def test_links_and_other_files_are_skipped_and_counted(tmp_path):
    paint(tmp_path / "set/1.png")
    paint(tmp_path / "elsewhere/2.png")
    paint(tmp_path / "set/.thumbnails/1.png")
    (tmp_path / "set/notes.txt").write_text("")
    (tmp_path / "set/link.png").symlink_to(tmp_path / "elsewhere/2.png")
    (tmp_path / "set/loop").symlink_to(tmp_path / "set")
    folder = ImageFolder(tmp_path / "set")
    assert len(folder) == 1
    assert folder.warnings == [f"skipped in {tmp_path / 'set'}: 2 links, 1 files of other kinds"]


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UsageError, match="no images in this folder"):
        open_images(tmp_path, "train")
    with pytest.raises(UsageError, match="no such folder"):
        open_images(tmp_path / "nothing", "train")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_may_not_be_listed_is_named(tmp_path):
    paint(tmp_path / "1.png")
    (tmp_path / "secret").mkdir(mode=0o000)
    with pytest.raises(ResourceError, match="cannot be listed"):
        ImageFolder(tmp_path)


def test_annotations_are_used_where_there_are_any(tmp_path):
    pixels = np.zeros((6, 8, 3), np.uint8)
    (tmp_path / "val").mkdir()
    Image.fromarray(pixels).save(tmp_path / "val/1.png")
    content = {
        "images": [{"id": 1, "file_name": "1.png", "width": 8, "height": 6}],
        "annotations": [],
        "categories": [{"id": 1, "name": "thing"}],
    }
    assert isinstance(open_images(tmp_path, "val"), ImageFolder)
    (tmp_path / "val.json").write_text(json.dumps(content))
    assert isinstance(open_images(tmp_path, "val"), CocoDataset)
    # Not all images of the folder instead: those of val are there to evaluate on.
    with pytest.raises(UsageError, match="no split 'train'"):
        open_images(tmp_path, "train")

"""`kernels.json`: what is read of it, and what is refused."""

from __future__ import annotations

import json

import pytest

from solo_edge.errors import ArtifactError, UsageError
from solo_edge.kernels.aot_folder import KERNELS_FILE
from solo_edge.runtime.kernel_folder import read_kernels


def test_a_whole_folder_is_read(folder):
    content = read_kernels(folder)
    assert list(content.plans) == ["postprocess", "preprocess"]
    assert content.plan("postprocess").numbers == {"score_threshold": 0.25}
    assert content.plan("postprocess").buffers["weights"].shape == (5,)
    assert [len(plan.launches) for plan in content.plans.values()] == [2, 1]
    with pytest.raises(UsageError, match="no plan 'preproces'; did you mean 'preprocess'"):
        content.plan("preproces")


def test_the_gpu_and_the_kernels_are_both_named_if_they_do_not_fit(folder):
    content = read_kernels(folder)
    for capability in ("8.0", "8.7", "12.1"):
        content.check_fit(capability, "")
    expected = "for compute capability 8.0 and newer or 8.7, but this GPU has 7.5; build them again"
    with pytest.raises(ArtifactError, match=expected):
        content.check_fit("7.5", "build them again")


def test_whoever_reads_says_what_is_to_be_done(folder, description):
    (folder / KERNELS_FILE).write_text(json.dumps({**description, "format": 9}))
    with pytest.raises(ArtifactError, match="this version reads 2; build the engine again"):
        read_kernels(folder, fix="build the engine again")


def test_no_folder_and_no_kernels(tmp_path):
    with pytest.raises(UsageError, match="folder of kernels not found"):
        read_kernels(tmp_path / "nothing")
    with pytest.raises(
        ArtifactError, match="no folder of kernels; build it with solo-edge kernels"
    ):
        read_kernels(tmp_path)


def test_every_file_is_checked(folder):
    (folder / "add.portable.ptx").write_bytes(b"add_kernem")
    with pytest.raises(ArtifactError, match=r"add\.portable\.ptx: SHA-256 differs"):
        read_kernels(folder)
    (folder / "add.portable.ptx").unlink()
    with pytest.raises(ArtifactError, match=r"add\.portable\.ptx: file is missing"):
        read_kernels(folder)


GONE = object()
POST = ("plans", "postprocess")
BUFFERS = (*POST, "buffers")
FIRST = (*POST, "launches", 0)
FILE = ("kernels", "scale", "variants", 0)


def change(description, path, value):
    """Set the entry at `path`, or take it away."""
    place = description
    for key in path[:-1]:
        place = place[key]
    if value is GONE:
        del place[path[-1]]
    else:
        place[path[-1]] = value


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("format",), 1, "the kernels have format 1, this version reads 2"),
        (BUFFERS, GONE, "'buffers' is missing"),
        ((*BUFFERS, "image", "dtype"), GONE, "'dtype' is missing"),
        ((*BUFFERS, "image", "dtype"), "float33", "damaged .*float33"),
        ((*BUFFERS, "image", "shape"), [2, -3], r"\[2, -3\] are no sizes"),
        ((*BUFFERS, "count"), GONE, "no buffer 'count'"),
        ((*POST, "outputs"), ["resutl"], "no buffer 'resutl'"),
        (("kernels", "scale"), GONE, "no kernel 'scale'"),
        (("kernels", "scale", "constants"), GONE, "'constants' is missing"),
        (("kernels",), [1], "damaged"),
        ((*FILE, "file"), "../scale.cubin", "is no plain file name"),
        ((*FILE, "compute_capability"), "eight", "damaged"),
        ((*FILE, "block"), [128], "damaged"),
        ((*FIRST, "grid"), [1, 2], "damaged"),
        ((*FIRST, "grid"), [0, 1, 1], "are no sizes"),
        ((*FIRST, "arguments", 1, "kind"), "int64", "unknown kind 'int64'"),
        ((*FIRST, "arguments", 1, "value"), "six", "pixels is 'six'"),
        ((*FIRST, "arguments", 0, "buffer"), GONE, "'buffer' is missing"),
    ],
)
def test_a_damaged_description_is_one_error(folder, description, path, value, expected):
    change(description, path, value)
    (folder / KERNELS_FILE).write_text(json.dumps(description))
    with pytest.raises(ArtifactError, match=expected) as caught:
        read_kernels(folder)
    assert str(caught.value).startswith(str(folder / KERNELS_FILE))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}'])
def test_a_description_that_is_none_is_one_error(folder, text):
    (folder / KERNELS_FILE).write_text(text)
    with pytest.raises(ArtifactError):
        read_kernels(folder)

"""Arrays come out of pickles as NumPy put them in; everything else is refused, and nothing is executed."""

from __future__ import annotations

import builtins
import collections
import os
import pickle
import random
import struct
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from solo_edge.errors import ArtifactError
from solo_edge.importers.array_pickle import read_array_pickle

ARRAYS = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "half": np.arange(4, dtype=np.float16),
    "double": np.linspace(0, 1, 5),
    "columns first": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "count": np.array([7], dtype=np.int64),
    "flag": np.array([True, False]),
    "scalar": np.array(3.5, dtype=np.float32),
}


def read(tmp_path: Path, data: bytes) -> dict[str, np.ndarray]:
    path = tmp_path / "model.pdparams"
    path.write_bytes(data)
    return read_array_pickle(path)


def assert_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        assert found[key].dtype == array.dtype
        np.testing.assert_array_equal(found[key], array)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", [dict, collections.OrderedDict])
def test_arrays(tmp_path: Path, protocol: int, kind: type) -> None:
    content = kind(ARRAYS) | {"StructuredToParameterName@@": {"conv.weight": "conv2d_0.w_0"}}
    assert_equal(read(tmp_path, pickle.dumps(content, protocol)), ARRAYS)


def test_tensors_of_newer_paddle_versions(tmp_path: Path) -> None:
    """They reduce to a call of `tuple` with the tensor's name and content."""

    class Tensor:
        def __init__(self, name: str, array: np.ndarray):
            self.name, self.array = name, array

        def __reduce__(self):
            return (tuple, ((self.name, self.array),))

    content = {key: Tensor(f"{key}.w_0", array) for key, array in ARRAYS.items()}
    assert_equal(read(tmp_path, pickle.dumps(content, 4)), ARRAYS)


def test_names_of_older_and_newer_numpy(tmp_path: Path) -> None:
    data = pickle.dumps(ARRAYS, 2)
    new, old = b"numpy._core.multiarray", b"numpy.core.multiarray"
    assert new in data or old in data
    for name in (new, old):
        assert_equal(read(tmp_path, data.replace(new, old).replace(old, name)), ARRAYS)


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: object, *arguments: object):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return (self.function, self.arguments)


def touched(path: Path) -> str:
    return f"open({str(path)!r}, 'w').close()"


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda mark: Call(os.system, f"touch {mark}"), r"(posix|nt)\.system"),
        (lambda mark: Call(builtins.eval, touched(mark)), r"eval"),
        (lambda mark: Call(builtins.exec, touched(mark)), r"exec"),
        (lambda mark: Call(subprocess.Popen, ["touch", str(mark)]), r"\.Popen"),
        (lambda mark: Call(builtins.getattr, np.ndarray, "tofile"), r"getattr"),
        (lambda mark: Call(builtins.__import__, "os"), r"__import__"),
        (lambda mark: Call(np.load, str(mark)), r"numpy\.load"),
        (lambda mark: Call(np.fromfile, str(mark)), r"fromfile"),
        (lambda mark: Call(pickle.loads, pickle.dumps(Call(os.system, f"touch {mark}"))), "loads"),
        (lambda mark: Call(np.dtype, "O"), "an array of type 'O'"),
        (lambda mark: Call(tuple, [1, 2]), "a tuple made of list"),
        (lambda mark: Path(mark), r"pathlib"),
        (lambda mark: np.float32(1.0), r"multiarray\.scalar"),
        (lambda mark: np.array(["text"]), "an array of type 'U4'"),
        (lambda mark: np.array([Call(os.system, f"touch {mark}")], dtype=object), "'O8'|system"),
        (lambda mark: np.zeros(2, dtype=[("a", "f4"), ("b", "f4")]), "'V8'"),
        (lambda mark: np.zeros(2, dtype=">f4"), "another byte order"),
        (lambda mark: np.ma.masked_array([1.0]), r"numpy\.ma"),
        (lambda mark: {1, 2}, "EMPTY_SET|builtins.set|__builtin__.set"),
        (lambda mark: 2**4000, "LONG4"),
        (lambda mark: "text", "'bad', which is no array but str"),
        (lambda mark: [np.zeros(1)], "no array but list"),
        (lambda mark: {"a": np.zeros(1)}, "no array but dict"),
        (lambda mark: None, "no array but NoneType"),
    ],
)
def test_hostile_and_foreign_content(tmp_path: Path, make, named: str, protocol: int) -> None:
    mark = tmp_path / "executed"
    content = {"good": np.zeros(3, dtype=np.float32), "bad": make(mark)}
    data = pickle.dumps(content, protocol)
    with pytest.raises(ArtifactError, match=named):
        read(tmp_path, data)
    assert not mark.exists()


def test_a_class_of_the_files_own(tmp_path: Path) -> None:
    module = types.ModuleType("evil")
    exec("class Thing: pass", module.__dict__)
    module.Thing.__module__ = "evil"
    sys.modules["evil"] = module
    try:
        data = pickle.dumps({"a": module.Thing()}, 4)
    finally:
        del sys.modules["evil"]
    with pytest.raises(ArtifactError, match=r"names 'evil\.Thing'"):
        read(tmp_path, data)


ARRAY_HEAD = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR"
FLOAT = b"cnumpy\ndtype\n(X\x02\x00\x00\x00f4\x89\x88tR"


def array_pickle(state: bytes) -> bytes:
    return b"\x80\x03}X\x01\x00\x00\x00a" + ARRAY_HEAD + state + b"bs."


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "cut off"),
        (b"\x80\x04", "cut off"),
        (b"not a pickle at all", "instruction|cut off"),
        (b"\x80\x04.", "damaged"),
        (b"\x80\x04N.", "no dictionary but NoneType"),
        (b"\x80\x04}K\x01NsN.", "a key that is no text"),
        (b"\x80\x04}(K\x01K\x01K\x01u.", "a key that is no text"),
        (b"\x80\x04}(X\x01\x00\x00\x00au.", "damaged"),
        (b"\x80\x04}Q.", "the instruction BINPERSID"),
        (b"\x80\x04\x82\x01.", "the instruction EXT1"),
        (b"(ios\nsystem\n.", "the instruction INST"),
        (b"I" + b"9" * 100_000 + b"\n.", "the instruction INT"),
        (b"\x80\x04h\x05.", "damaged"),
        (b"\x80\x04]]\x93.", "it names"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.", "damaged"),
        (
            array_pickle(b"(K\x01(K\x02t" + FLOAT + b"\x89C\x04\0\0\0\0t"),
            r"shape \(2,\) with 4 bytes",
        ),
        (array_pickle(b"(K\x01(J\xff\xff\xff\xfft" + FLOAT + b"\x89C\0t"), "impossible shape"),
        (array_pickle(b"(K\x01(G?\xf0\0\0\0\0\0\0t" + FLOAT + b"\x89C\x04\0\0\0\0t"), "impossible"),
        (
            array_pickle(b"(K\x01(" + b"K\x01" * 9 + b"t" + FLOAT + b"\x89C\x04\0\0\0\0t"),
            "with 4 bytes",
        ),
        (array_pickle(b"(K\x01(K\x01t" + FLOAT + b"\x89]t"), "an array of list"),
        (array_pickle(b"(K\x01(K\x01tN\x89C\x04\0\0\0\0t"), "no plain numbers"),
        (array_pickle(b"N"), "damaged"),
        (b"\x80\x03}X\x01\x00\x00\x00a" + ARRAY_HEAD + b"s.", "no array but Array"),
        (b"\x80\x03}N\x8bb.", "LONG4"),
        (b"\x80\x03}}b.", "a state for dict"),
        (b"\x80\x03cnumpy\nndarray\n)R.", r"a call of numpy\.ndarray"),
        (b"\x80\x03cnumpy\ndtype\n}b.", r"a state for numpy\.dtype"),
    ],
)
def test_damage(tmp_path: Path, data: bytes, match: str) -> None:
    with pytest.raises(ArtifactError, match=match):
        read(tmp_path, data)


# A tuple so deep that neither its hash nor its text can be made.
DEEP = b")" + b"\x85" * 100_000


@pytest.mark.parametrize(
    "data",
    [
        b"}" + DEEP + b"Ns.",  # as a key
        DEEP + DEEP + b"\x93.",  # as a name
        b"cnumpy\ndtype\n" + DEEP + b"\x85R.",  # as a type
        FLOAT + b"(K\x03" + DEEP + b"NNNtb.",  # as a byte order
        b"c_codecs\nencode\nX\x01\x00\x00\x00a" + DEEP + b"\x86R.",  # as an encoding
        b"c__builtin__\ntuple\n" + DEEP + b"\x85R.",
        DEEP + b".",
    ],
)
def test_nesting_without_end(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ArtifactError, match="refused"):
        read(tmp_path, b"\x80\x04" + data)


def test_one_text_encoded_again_and_again(tmp_path: Path) -> None:
    text = b"X" + struct.pack("<I", 100_000) + b"a" * 100_000 + b"q\x00"
    again = b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R"
    with pytest.raises(ArtifactError, match="more bytes than the file has"):
        read(tmp_path, b"\x80\x03" + text + again * 1000 + b".")


def test_many_arrays_over_the_same_bytes(tmp_path: Path) -> None:
    data = b"\x80\x03B" + struct.pack("<I", 4000) + b"\0" * 4000 + b"q\x01}"
    state = b"(K\x01(M\xe8\x03t" + FLOAT + b"\x89h\x01t"
    for i in range(100):
        data += b"X\x03\x00\x00\x00" + f"{i:03d}".encode() + ARRAY_HEAD + state + b"bs"
    with pytest.raises(ArtifactError, match="arrays of more bytes than the file has"):
        read(tmp_path, data + b".")


def test_work_without_end(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="more than 1000000 instructions"):
        read(tmp_path, b"\x80\x04" + b"N" * 1_000_001)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_truncated_and_altered_files(tmp_path: Path, protocol: int) -> None:
    """Whatever happens to a file, the answer is arrays or one error."""
    data = pickle.dumps(ARRAYS, protocol)
    generator = random.Random(protocol)
    damaged = [data[:end] for end in range(0, len(data), 5)]
    for _ in range(500):
        changed = bytearray(data)
        for _ in range(generator.randint(1, 4)):
            changed[generator.randrange(len(changed))] = generator.randrange(256)
        damaged.append(bytes(changed))
    refused = 0
    for content in damaged:
        try:
            found = read(tmp_path, content)
        except ArtifactError:
            refused += 1
        else:
            assert all(isinstance(array, np.ndarray) for array in found.values())
    assert refused > len(damaged) / 3

"""Implicit INT8 with a stand-in for TensorRT 10 that has the real one's names and manners, and no others."""

from __future__ import annotations

import ast
import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest

from solo_edge.calibration import tensorrt10
from solo_edge.calibration.collect import collect
from solo_edge.calibration.qdq import placement
from solo_edge.calibration.ranges import Ranges
from solo_edge.calibration.tensorrt10 import (
    CalibrationFile,
    float_tensors,
    make_calibrator,
    read_cache_text,
    set_ranges,
    tensor_limits,
    use_implicit_int8,
    write_cache_text,
)
from solo_edge.errors import ArtifactError, DataError, ResourceError

# How objects of TensorRT's classes are called in the module.
CLASSES = {
    "config": "IBuilderConfig",
    "network": "INetworkDefinition",
    "layer": "ILayer",
    "tensor": "ITensor",
    "base": "IInt8EntropyCalibrator2",
}


def used_names():
    """(class, member) of all of TensorRT that the module uses."""
    found = set()
    tree = ast.parse(Path(tensorrt10.__file__).read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            if match := re.fullmatch(r"trt\.(\w+)\.(\w+)", text):
                found.add(match.groups())
            elif match := re.fullmatch(rf"({'|'.join(CLASSES)})\.(\w+)", text):
                found.add((CLASSES[match[1]], match[2]))
        elif isinstance(node, ast.ClassDef) and node.name == "Calibrator":
            methods = {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
            for method in methods - {"__init__", "check"}:
                found |= {(kind, method) for kind in tensorrt10.CLASSES.values()}
    return {name for name in found if name[1] != "__init__"}


@pytest.mark.parametrize("version", ["10.3.0", "10.13.3.9", "10.16.1.11"])
def test_every_name_exists_in_every_tensorrt_10(shared, version):
    names = json.loads((shared / f"prototypes/tensorrt_names/{version}.json").read_text())
    assert len(used_names()) > 15
    missing = {name for name in used_names() if name[1] not in (names.get(name[0]) or [])}
    assert not missing


def test_tensorrt_11_has_lost_them(shared):
    names = json.loads((shared / "prototypes/tensorrt_names/11.4.0.106.json").read_text())
    assert names.get("IInt8EntropyCalibrator2") is None
    assert "INT8" not in names["BuilderFlag"]


class _Calibrator:
    """As pybind11's: whoever forgets its constructor is refused, and what it raises is swallowed."""

    ready = False

    def __init__(self):
        self.ready = True


class Config:
    __slots__ = ("flags", "int8_calibrator")

    def __init__(self):
        self.flags = set()
        self.int8_calibrator = None

    def set_flag(self, flag):
        assert flag in ("INT8", "FP16")
        self.flags.add(flag)


class Tensor:
    __slots__ = ("name", "range")

    def __init__(self, name):
        self.name, self.range = name, None

    def set_dynamic_range(self, low, high):
        self.range = (low, high)
        return high < 1e30


class Layer:
    def __init__(self, *outputs):
        self.outputs = [Tensor(name) for name in outputs]
        self.num_outputs = len(outputs)

    def get_output(self, index):
        return self.outputs[index]


class Network:
    num_inputs, num_layers = 1, 2

    def __init__(self):
        self.image, self.layers = Tensor("image"), [Layer("a"), Layer("b", "c")]

    def get_input(self, index):
        return [self.image][index]

    def get_layer(self, index):
        return self.layers[index]


class TensorRT10:
    __version__ = "10.3.0"

    class BuilderFlag:
        INT8, FP16 = "INT8", "FP16"

    class IInt8EntropyCalibrator2(_Calibrator):
        header = b"TRT-100300-EntropyCalibration2\n"

    class IInt8MinMaxCalibrator(_Calibrator):
        header = b"TRT-100300-MinMaxCalibration\n"


class TensorRT11:
    __version__ = "11.4.0"

    class BuilderFlag:
        TF32 = "TF32"


class Driver:
    """Device memory that is addressed by number."""

    def __init__(self):
        self.memory = {}
        self.pending = []

    def allocate(self, size):
        address = 4096 * (1 + len(self.memory))
        self.memory[address] = np.zeros(size, np.uint8)
        return address

    def host_memory(self, size):
        return np.zeros(size, np.uint8)

    def copy_to_device(self, address, array):
        self.pending.append((address, array))

    def synchronize(self):
        for address, array in self.pending:
            self.memory[address][:] = array
        self.pending = []


def build(config, driver, shape, inputs=("image",)):
    """What the builder asks of a calibrator: the batches that it saw, or None where a cache served."""
    calibrator = config.int8_calibrator
    assert calibrator.ready
    cache = swallow(calibrator.read_calibration_cache)
    if cache is not None:
        assert cache.startswith(calibrator.header)
        return None
    batches = []
    while (addresses := swallow(calibrator.get_batch, list(inputs))) is not None:
        assert calibrator.get_batch_size() == shape[0]
        assert all(type(address) is int for address in addresses)
        batches.append(driver.memory[addresses[0]].view(np.float32).reshape(shape).copy())
    if batches:
        text = calibrator.header + b"image: 3c010a14\n"
        swallow(calibrator.write_calibration_cache, memoryview(text))
    return batches


def swallow(method, *arguments):
    try:
        return method(*arguments)
    except Exception:
        return None


def an_image(value, shape=(1, 3, 4, 6)):
    return np.full(shape, value, np.float32)


@pytest.fixture
def file(tmp_path):
    preprocess = {"size": (4, 6)}
    return CalibrationFile(tmp_path / "cache.json", "c" * 64, preprocess, ["1" * 64, "2" * 64])


def calibrated(file, images, *, batch=1, algorithm="entropy", trt=TensorRT10, inputs=("image",)):
    config, driver = Config(), Driver()
    calibrator = make_calibrator(trt, driver, images, file, batch=batch, algorithm=algorithm)
    use_implicit_int8(trt, config, calibrator)
    assert config.flags == {"INT8", "FP16"}
    return calibrator, build(config, driver, (batch, 3, 4, 6), inputs)


@pytest.mark.parametrize("algorithm", ["entropy", "minmax"])
def test_every_full_batch_reaches_the_device(file, algorithm):
    images = [an_image(value) for value in range(5)]
    calibrator, batches = calibrated(file, images, batch=2, algorithm=algorithm)
    calibrator.check()
    assert [batch[:, 0, 0, 0].tolist() for batch in batches] == [[0, 1], [2, 3]]
    assert all((batch == batch[:, :1, :1, :1]).all() for batch in batches)


def test_a_calibration_is_used_again(file):
    calibrated(file, [an_image(1)])
    calibrator, batches = calibrated(file, iter(()))
    assert batches is None
    calibrator.check()


@pytest.mark.parametrize(
    "change",
    [
        {"checkpoint_sha256": "d" * 64},
        {"preprocess": {"size": (4, 8)}},
        {"images": ["1" * 64]},
        {"images": ["1" * 64, "3" * 64]},
    ],
)
def test_that_of_another_model_or_other_images_is_not(file, change, caplog):
    calibrated(file, [an_image(1)])
    other = CalibrationFile(**{**vars(file), **change})
    assert len(calibrated(other, [an_image(1)])[1]) == 1
    assert "calibrating anew" in caplog.text


def test_that_of_another_algorithm_or_version_is_not(file, caplog):
    calibrated(file, [an_image(1)])
    assert len(calibrated(file, [an_image(1)], algorithm="minmax")[1]) == 1
    later = type("Later", (TensorRT10,), {"__version__": "10.16.1.11"})
    assert len(calibrated(file, [an_image(1)], trt=later)[1]) == 1
    assert caplog.text.count("another TensorRT or algorithm") == 2


def test_the_order_of_the_images_does_not_matter(file):
    calibrated(file, [an_image(1)])
    other = CalibrationFile(**{**vars(file), "images": file.images[::-1]})
    assert calibrated(other, iter(()))[1] is None


def test_what_goes_wrong_is_not_swallowed(file):
    def broken():
        yield an_image(1)
        raise DataError("the second image is broken")

    calibrator, batches = calibrated(file, broken())
    assert len(batches) == 1
    with pytest.raises(DataError, match="second image is broken"):
        calibrator.check()
    assert not file.path.exists()  # half the images are no calibration


def test_too_few_images_other_inputs_and_a_damaged_file_are_named(file):
    calibrator, _ = calibrated(file, [an_image(1)], batch=2)
    with pytest.raises(DataError, match="1 images are no batch of 2"):
        calibrator.check()
    calibrator, _ = calibrated(file, [an_image(1)], inputs=("x", "y"))
    with pytest.raises(ArtifactError, match=r"inputs are \['x', 'y'\]"):
        calibrator.check()
    file.path.write_text("{")
    calibrator, _ = calibrated(file, [an_image(1)])
    with pytest.raises(ArtifactError, match="calibration cache is unreadable"):
        calibrator.check()


def test_tensorrt_11_is_told_from_10(file):
    with pytest.raises(ResourceError, match=r"TensorRT 11\.4\.0 has no calibrators.*pairs"):
        use_implicit_int8(TensorRT11, Config())
    with pytest.raises(ResourceError, match="no calibrators"):
        make_calibrator(TensorRT11, Driver(), [], file)


def test_cache_text_is_scales_in_hexadecimal():
    # 1 / 127 and header as in caches that TensorRT wrote: "images: 3c010204" is amax 1.
    text = write_cache_text({"images": 1.0, "a: b": 127.0}, "10.3.0")
    assert text == b"TRT-100300-EntropyCalibration2\nimages: 3c010204\na: b: 3f800000\n"
    assert write_cache_text({}, "10.16.1.11", "minmax") == b"TRT-101601-MinMaxCalibration\n"


def test_cache_text_is_read_back():
    limits = {"image": 2.64, "a.weight[0]": 1e-6, "x: y": 3e5}
    header, found = read_cache_text(write_cache_text(limits, "10.13.3.9"))
    assert header == "TRT-101303-EntropyCalibration2"
    assert found == pytest.approx(limits, rel=1e-7)
    assert struct.pack(">f", 1.0).hex() == "3f800000"
    # A cache of TensorRT's own, as published with NVDLA's documentation.
    _, found = read_cache_text(b"TRT-7202-EntropyCalibration2\ndata: 3c008912\nprob: 3c083ffd\n")
    assert found == pytest.approx({"data": 0.99636, "prob": 1.05615}, rel=1e-4)


@pytest.mark.parametrize(
    "text",
    [b"", b"nothing", b"TRT-100300-X\nimage 3c\n", b"TRT-100300-X\nimage: zz\n", b"\xff\xfe"],
)
def test_what_is_no_cache_is_refused(text):
    with pytest.raises(ArtifactError, match="no calibration cache"):
        read_cache_text(text)


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
def test_a_range_that_is_none_is_refused(limit):
    with pytest.raises(ArtifactError, match="the range of a is"):
        write_cache_text({"a": limit}, "10.3.0")
    with pytest.raises(ArtifactError, match="the range of a is"):
        set_ranges(Network(), {"a": limit})


def test_ranges_are_set_on_the_tensors_of_their_names():
    network = Network()
    assert set_ranges(network, {"image": 2.0, "c": 3.0}) == ("a", "b")
    assert network.image.range == (-2.0, 2.0)
    assert network.layers[1].outputs[1].range == (-3.0, 3.0)
    assert network.layers[0].outputs[0].range is None
    with pytest.raises(ArtifactError, match="no tensor 'd'"):
        set_ranges(network, {"d": 1.0})
    with pytest.raises(ArtifactError, match="refuses the range 1e\\+31 of a"):
        set_ranges(network, {"a": 1e31})


def test_our_ranges_become_a_cache_and_tell_what_they_leave_out(float_graph, limits, tmp_path):
    graph = float_graph()
    ours = tensor_limits(graph, limits)
    assert set(ours) == set(placement(graph).activations)
    _, found = read_cache_text(write_cache_text(ours, "10.3.0"))
    assert found == pytest.approx(ours, rel=1e-6)
    with pytest.raises(ArtifactError, match="there is no range of"):
        tensor_limits(graph, {})


def test_every_tensor_that_may_have_a_range_can_be_measured(float_graph, scenes):
    graph = float_graph()
    names = float_tensors(graph)
    assert set(placement(graph).activations) < set(names)
    assert {"image", "category_scores", "mask_kernels", "mask_features"} < set(names)
    weights = {each.name for each in graph.graph.initializer}
    assert not weights.intersection(names)
    found = collect(graph, names, scenes[:1], threads=1)
    assert all(found[name].count > 0 for name in names)


def test_a_calibration_file_of_the_same_images_as_ranges(tmp_path):
    ranges = Ranges(
        checkpoint_sha256="c" * 64,
        preprocess={"size": [4, 6]},
        method="entropy",
        percentile=99.99,
        images=(("a.jpg", "1" * 64),),
        limits={"image": 1.0},
    )
    file = CalibrationFile.beside(ranges, tmp_path / "cache.json")
    calibrated(file, [an_image(1)])
    assert json.loads(file.path.read_text())["images"] == ["1" * 64]

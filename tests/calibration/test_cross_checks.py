"""Ranges and pairs against independent tools: ONNX Runtime's calibrators, NVIDIA's Model Optimizer."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime.quantization.calibrate import (
    CalibrationDataReader,
    CalibrationMethod,
    HistogramCollector,
    create_calibrator,
)

from solo_edge.calibration.collect import collect
from solo_edge.calibration.observers import choose_range, quantization_error
from solo_edge.calibration.qdq import placement
from solo_edge.calibration.session import open_session

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/peers/modelopt_qdq.py"


class Reader(CalibrationDataReader):
    def __init__(self, images):
        self.images = iter(images)

    def get_next(self):
        image = next(self.images, None)
        return None if image is None else {"image": image}


@pytest.fixture(scope="module", params=[8, pytest.param(32, marks=pytest.mark.slow)])
def case(request, float_graph, render, tmp_path_factory):
    """The float graph, its file, our histograms, and the images."""
    graph, images = float_graph(), render(request.param)
    path = tmp_path_factory.mktemp("float") / "model.onnx"
    onnx.save(graph, path)
    return path, collect(graph, placement(graph).activations, images, threads=1), images


def calibrated(case, method, **options):
    """Tensor -> range of ONNX Runtime, and the width of its bins if it has any."""
    path, histograms, images = case
    calibrator = create_calibrator(
        path,
        ["Conv", "Add"],
        str(path.with_name("augmented.onnx")),
        method,
        extra_options={"symmetric": True, **options},
    )
    calibrator.collect_data(Reader(images))
    found = calibrator.compute_data()
    # The two ends are clipped to the smallest and the largest value one by one.
    ranges = {name: largest(found[name].range_value) for name in histograms}
    if method == CalibrationMethod.MinMax:
        return ranges, {}
    edges = {name: calibrator.collector.histogram_dict[name][1] for name in histograms}
    return ranges, {name: float(each[1] - each[0]) for name, each in edges.items()}


def largest(ends):
    return max(float(np.abs(end).max()) for end in ends)


def test_the_maximum_is_onnxruntimes(case):
    theirs, _ = calibrated(case, CalibrationMethod.MinMax)
    for name, histogram in case[1].items():
        # Its graph computes more outputs, is fused otherwise, and rounds the last bit otherwise.
        assert theirs[name] == pytest.approx(histogram.maximum, rel=2e-6), name


@pytest.mark.parametrize("percentile", [99.9, 99.999])
def test_percentiles_are_onnxruntimes_within_a_bin(case, percentile):
    theirs, widths = calibrated(
        case, CalibrationMethod.Percentile, percentile=percentile, num_bins=2048
    )
    for name, histogram in case[1].items():
        ours = choose_range(histogram, "percentile", percentile=percentile)
        # Theirs is the lower edge of the bin in which the percentile lies, ours is within a bin.
        assert abs(ours - theirs[name]) <= widths[name] + histogram.width, name


def test_onnxruntimes_entropy_cannot_choose_by_default(case):
    """It has 128 bins for 128 levels. So its "entropy" is its maximum, and no measure for ours."""
    theirs, _ = calibrated(case, CalibrationMethod.Entropy)
    for name, histogram in case[1].items():
        assert theirs[name] == pytest.approx(histogram.maximum, rel=2e-6), name


def test_entropy_differs_from_onnxruntimes_where_its_is_worse(case, float_graph):
    """With bins to choose from, it finds much the same for values of both signs, but clips rectified ones.

    It counts zeros, exact at every scale, as values to be approximated, half of its levels lie on the
    empty side, and its levels beyond a whole number of bins are not even.
    """
    _, histograms, images = case
    signed = next(name for name, histogram in histograms.items() if histogram.negative)
    rectified = next(
        name
        for name, histogram in histograms.items()
        if not histogram.negative and histogram.zeros > 0.3 * histogram.count
    )
    session = open_session(float_graph(), 1, watched=[signed, rectified])
    values = [session.run([signed, rectified], {"image": image}) for image in images[:4]]
    collector = HistogramCollector("entropy", True, 1001, 255, None, "same")
    for one in values:
        collector.collect(dict(zip([signed, rectified], one, strict=True)))
    theirs = {name: largest(each[:2]) for name, each in collector.compute_entropy().items()}
    few = collect(float_graph(), [signed, rectified], images[:4], threads=1)
    ours = {name: choose_range(histogram, "entropy") for name, histogram in few.items()}
    assert theirs[signed] == pytest.approx(ours[signed], rel=0.35)
    assert theirs[rectified] < 0.3 * few[rectified].maximum < ours[rectified]
    error = {
        method: quantization_error(few[rectified], each[rectified])
        for method, each in (("ours", ours), ("theirs", theirs))
    }
    assert error["theirs"] > 10 * error["ours"]


@pytest.mark.slow
def test_pairs_and_entropy_against_model_optimizer():
    """Needs the environment that `benchmarks/peers/modelopt_qdq.py ENVIRONMENT --install` makes."""
    environment = os.environ.get("SOLO_EDGE_MODELOPT_ENV")
    if not environment:
        pytest.skip("SOLO_EDGE_MODELOPT_ENV names no environment with nvidia-modelopt")
    spec = importlib.util.spec_from_file_location("modelopt_qdq", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    found = module.compare(Path(environment))
    # Predictions stay in float in ours, because an error there is in the result as it is.
    parts = ("category_out", "kernel_out", "mask_feature_branch.out")
    convolutions, additions = found["convolutions"], found["additions"]
    assert convolutions["in_both"] > 70
    assert not convolutions["only_ours"]
    assert all(any(part in name for part in parts) for name in convolutions["only_modelopt"])
    # Residual additions are the same; theirs also has the pyramid's, whose other input is resized.
    assert additions["in_both"] == 10
    assert not additions["only_ours"]
    assert len(additions["only_modelopt"]) == 3
    assert not found["other_operators"]["ours"]
    assert set(found["other_operators"]["modelopt"]) == {"Resize", "MaxPool"}
    for output, error in found["errors"]["ours"].items():
        assert error < 1.1 * found["errors"]["modelopt"][output]
    assert all(abs(bins) <= 1 for bins in found["entropy_bins_apart"].values())

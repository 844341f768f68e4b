"""The shipped model's graphs, rendered scenes, ranges measured on them, and NVIDIA's parser and builder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import solo_edge
from solo_edge.calibration.collect import collect
from solo_edge.calibration.qdq import insert_pairs, placement
from solo_edge.errors import ResourceError
from solo_edge.preprocess import Preprocess

MODEL = Path(solo_edge.__file__).parent / "assets/solov2-nano-256-scenes.safetensors"


@pytest.fixture(scope="session")
def demo_model():
    return solo_edge.load_model(MODEL)


@pytest.fixture(scope="session")
def float_graph(demo_model, tmp_path_factory):
    """float_graph(graph, precision) -> the exported model; each is made once."""
    from solo_edge.export.onnx import export_onnx

    made = {}

    def export(graph="network", precision="fp32"):
        if (graph, precision) not in made:
            path = tmp_path_factory.mktemp("exported") / "model.onnx"
            export_onnx(demo_model, path, graph=graph, precision=precision)
            made[graph, precision] = onnx.load(path)
        return made[graph, precision]

    return export


@pytest.fixture(scope="session")
def render(demo_model):
    """render(count, split) -> prepared images [1, 3, H, W]."""
    from solo_edge.data.synthetic.dataset import scene_rng
    from solo_edge.data.synthetic.scene import render_scene

    preprocess = Preprocess.from_config(demo_model.config)

    def images(count, split="train"):
        scenes = (render_scene(scene_rng(0, split, index)) for index in range(count))
        return [preprocess(scene.image)[0][np.newaxis] for scene in scenes]

    return images


@pytest.fixture(scope="session")
def scenes(render):
    return render(8)


@pytest.fixture(scope="session")
def histograms(float_graph, scenes):
    """By tensor of the float32 network."""
    graph = float_graph()
    return collect(graph, placement(graph).activations, scenes, threads=1)


@pytest.fixture(scope="session")
def limits(float_graph, histograms):
    """By site."""
    sites = placement(float_graph()).sites
    return {sites[name]: histogram.maximum for name, histogram in histograms.items()}


@pytest.fixture(scope="session")
def int8_graph(float_graph, limits):
    """int8_graph(graph, precision) -> the model with pairs. To be changed only in a copy."""
    return lambda graph="network", precision="fp32": insert_pairs(
        float_graph(graph, precision), limits
    )


@pytest.fixture(scope="session")
def nvidia():
    """nvidia(path) builds an ONNX file with TensorRT for RTX."""
    from solo_edge.export.tensorrt_rtx import build_for_rtx, load_tensorrt_rtx

    try:
        load_tensorrt_rtx()
    except ResourceError as error:
        pytest.skip(str(error))
    return build_for_rtx

"""Our INT8 graph against that of NVIDIA's Model Optimizer: same float graph, same images, both by entropy.

    python benchmarks/peers/modelopt_qdq.py ENVIRONMENT --install   (1.4 GB, of which PyTorch is half)
    python benchmarks/peers/modelopt_qdq.py ENVIRONMENT

ENVIRONMENT is a folder for a virtual environment of its own: Model Optimizer pins ONNX and ONNX Runtime to
older versions than ours. No GPU is needed. Prints JSON:

- which convolutions and additions have pairs in which graph, and which other operators theirs has;
- the error of both graphs in ONNX Runtime, against the float graph, on scenes that calibration did not see;
- the ratio of our activation scales to theirs;
- for some tensors, how many bins our entropy threshold is from their PyTorch calibrator's, given the
  same histogram.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import venv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

PACKAGES = (
    "nvidia-modelopt==0.47.0",
    "torch==2.13.0",
    "onnx~=1.21.0",
    "onnxruntime~=1.24.2",
    "onnx-graphsurgeon>=0.6.1",
    "onnxconverter-common~=1.16.0",
    "onnxscript",
    "onnxslim>=0.1.76",
    "polygraphy>=0.53.4",
    "lief",
    "cppimport",
    "ml_dtypes",
    # modelopt.torch needs these two and does not ask for them.
    "requests",
    "huggingface_hub",
)
# What runs there. Argument: a folder.
QUANTIZE = """
import sys
from pathlib import Path
import numpy as np
from modelopt.onnx.quantization import quantize
folder = Path(sys.argv[1])
quantize(
    str(folder / "float.onnx"),
    quantize_mode="int8",
    calibration_data={"image": np.load(folder / "images.npy")},
    calibration_method="entropy",
    calibration_eps=["cpu"],
    high_precision_dtype="fp32",
    output_path=str(folder / "modelopt.onnx"),
)
"""
ENTROPY = """
import json, sys
from pathlib import Path
import numpy as np
from modelopt.torch.quantization.calib.histogram import _compute_amax_entropy
path = Path(sys.argv[1], "histograms.json")
for histogram in (found := json.loads(path.read_text())).values():
    counts = np.array(histogram["counts"])
    edges = np.arange(len(counts) + 1) * histogram["width"]
    histogram["modelopt"] = float(_compute_amax_entropy(counts, edges, 8, False))
path.write_text(json.dumps(found))
"""


@dataclass(frozen=True)
class Structure:
    """Where the pairs of a graph stand. Nodes are called as in the float graph."""

    convolutions: frozenset[str]  # those that read an activation and a weight with pairs
    additions: frozenset[str]  # those that read a pair and a convolution
    others: Counter[str]  # operators that read pairs otherwise
    scales: dict[str, float]  # activation -> scale

    @classmethod
    def of(cls, model: onnx.ModelProto) -> Structure:
        makers = {name: node for node in model.graph.node for name in node.output}
        constants = {each.name: each for each in model.graph.initializer}
        convolutions, additions, others, scales = set(), set(), Counter[str](), {}
        for node in model.graph.node:
            kinds = [makers[name].op_type for name in node.input if name in makers]
            if node.op_type == "QuantizeLinear" and node.input[0] not in constants:
                scales[node.input[0]] = float(numpy_helper.to_array(constants[node.input[1]]))
            if "DequantizeLinear" not in kinds:
                continue
            if node.op_type == "Conv":
                if kinds[:2] == ["DequantizeLinear"] * 2:
                    convolutions.add(node.name)
            elif node.op_type == "Add" and "Conv" in kinds:
                additions.add(node.name)
            else:
                others[node.op_type] += 1
        return cls(frozenset(convolutions), frozenset(additions), others, scales)


def install(environment: Path) -> None:
    """Make the environment; downloads."""
    venv.create(environment, with_pip=True)
    subprocess.run([python_of(environment), "-m", "pip", "install", *PACKAGES], check=True)


def python_of(environment: Path) -> str:
    return str(environment / "bin" / "python")


def run(environment: Path, program: str, folder: Path) -> None:
    done = subprocess.run(
        [python_of(environment), "-c", program, str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"Model Optimizer failed:\n{done.stderr[-2000:]}")


def compare(environment: Path, *, images: int = 32, tensors: int = 6) -> dict[str, Any]:
    """Everything that is printed."""
    from solo_edge.calibration.collect import collect
    from solo_edge.calibration.observers import choose_range
    from solo_edge.calibration.qdq import insert_pairs, placement

    with tempfile.TemporaryDirectory(prefix="modelopt-") as name:
        folder = Path(name)
        model, seen, unseen = prepare(folder, images)
        np.save(folder / "images.npy", np.concatenate(seen))
        run(environment, QUANTIZE, folder)
        theirs = onnx.load(folder / "modelopt.onnx")
        where = placement(model)
        histograms = collect(model, where.activations, seen)
        limits = {n: choose_range(histogram, "entropy") for n, histogram in histograms.items()}
        ours = insert_pairs(model, {where.sites[n]: limit for n, limit in limits.items()})
        some = list(histograms)[:: max(1, len(histograms) // tensors)]
        bins = entropy_distance(environment, folder, {n: histograms[n] for n in some}, limits)
    mine, other = Structure.of(ours), Structure.of(theirs)
    ratios = [mine.scales[n] / other.scales[n] for n in mine.scales.keys() & other.scales.keys()]
    return {
        **differences(model, mine, other),
        "errors": {"ours": errors(model, ours, unseen), "modelopt": errors(model, theirs, unseen)},
        "scale_ratio_quantiles": np.quantile(ratios, [0, 0.1, 0.5, 0.9, 1]).round(3).tolist(),
        "entropy_bins_apart": bins,
    }


def prepare(
    folder: Path, images: int
) -> tuple[onnx.ModelProto, list[np.ndarray[Any, Any]], list[np.ndarray[Any, Any]]]:
    """The float graph of the shipped model, in memory and in `folder`; scenes for two purposes."""
    import solo_edge
    from solo_edge.data.synthetic.dataset import scene_rng
    from solo_edge.data.synthetic.scene import render_scene
    from solo_edge.export.onnx import export_onnx
    from solo_edge.preprocess import Preprocess

    assets = Path(solo_edge.__file__).parent / "assets"
    network = solo_edge.load_model(assets / "solov2-nano-256-scenes.safetensors")
    export_onnx(network, folder / "float.onnx")
    preprocess = Preprocess.from_config(network.config)
    seen, unseen = (
        [
            preprocess(render_scene(scene_rng(0, split, i)).image)[0][np.newaxis]
            for i in range(count)
        ]
        for split, count in (("train", images), ("val", 12))
    )
    return onnx.load(folder / "float.onnx"), seen, unseen


def differences(model: onnx.ModelProto, ours: Structure, theirs: Structure) -> dict[str, Any]:
    """By the names of weights, where there are any."""
    weights = {node.name: node.input[1] for node in model.graph.node if node.op_type == "Conv"}

    def name_all(nodes: frozenset[str]) -> dict[str, int]:
        return dict(sorted(Counter(weights.get(node, node) for node in nodes).items()))

    return {
        "convolutions": {
            "in_both": len(ours.convolutions & theirs.convolutions),
            "only_ours": name_all(ours.convolutions - theirs.convolutions),
            "only_modelopt": name_all(theirs.convolutions - ours.convolutions),
        },
        "additions": {
            "in_both": len(ours.additions & theirs.additions),
            "only_ours": name_all(ours.additions - theirs.additions),
            "only_modelopt": name_all(theirs.additions - ours.additions),
        },
        "other_operators": {"ours": dict(ours.others), "modelopt": dict(theirs.others)},
    }


def errors(
    exact: onnx.ModelProto, rounded: onnx.ModelProto, images: list[np.ndarray[Any, Any]]
) -> dict[str, float]:
    """Root of the mean square error over that of the values, by output."""
    from solo_edge.calibration.session import open_session

    names = ["mask_kernels", "mask_features"]
    sessions = [open_session(model) for model in (exact, rounded)]
    wanted, found = (
        [session.run(names, {"image": image}) for image in images] for session in sessions
    )
    result = {}
    for i, name in enumerate(names):
        a, b = (np.stack([each[i] for each in results]) for results in (wanted, found))
        result[name] = round(float(np.sqrt(np.mean((a - b) ** 2) / np.mean(a**2))), 5)
    return result


def entropy_distance(
    environment: Path, folder: Path, histograms: dict[str, Any], limits: dict[str, float]
) -> dict[str, float]:
    """How many bins our threshold is above that of Model Optimizer's calibrator for PyTorch."""
    path = folder / "histograms.json"
    content = {
        name: {
            "counts": each.counts[: int(each.maximum / each.width) + 1].tolist(),
            "width": each.width,
        }
        for name, each in histograms.items()
    }
    path.write_text(json.dumps(content))
    run(environment, ENTROPY, folder)
    found = json.loads(path.read_text())
    return {
        name: (limits[name] - min(found[name]["modelopt"], each.maximum)) / each.width
        for name, each in histograms.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("environment", type=Path)
    parser.add_argument("--install", action="store_true", help="make the environment first")
    options = parser.parse_args()
    if options.install:
        install(options.environment)
    elif not Path(python_of(options.environment)).exists():
        sys.exit(f"{options.environment} is no virtual environment; make one with --install")
    print(json.dumps(compare(options.environment), indent=2))


if __name__ == "__main__":
    main()

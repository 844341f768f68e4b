"""TensorRT engines in two halves: what a workstation writes, and what a device without PyTorch makes of it.

TensorRT and the GPU are stand-ins: ONNX Runtime executes the plan.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import solo_edge
from solo_edge.cli import main
from solo_edge.errors import ArtifactError, ResourceError, UsageError
from solo_edge.export.build import build_engine
from solo_edge.export.portable import build_portable
from solo_edge.export.self_check import make_image
from solo_edge.files import sha256_of
from solo_edge.manifest import read_manifest, record_files
from solo_edge.portable_folder import CHECK, GRAPH, PORTABLE, read_portable, write_portable
from solo_edge.runtime.engine import load_engine, open_predictor

ROOT = Path(__file__).resolve().parents[3]
STANDINS = ROOT / "tests/solo_edge/runtime/standins"
DEMO = Path(solo_edge.__file__).parent / "assets/solov2-nano-256-scenes.safetensors"

# The device. Only the stand-in may import onnx, which the real TensorRT does not need.
DEVICE = """
import builtins, sys
for name in ("torch", "torchvision", "triton", "timm", "onnxscript", "safetensors", "cv2", "openvino"):
    sys.modules[name] = None
sys.modules["cuda.bindings"] = None
original = builtins.__import__

def guarded(name, globals=None, locals=None, fromlist=(), level=0):
    asks = (globals or {}).get("__name__", "").partition(".")[0]
    if level == 0 and name.partition(".")[0] == "onnx" and asks not in ("tensorrt", "onnx"):
        raise ModuleNotFoundError(f"{asks} imports onnx", name="onnx")
    return original(name, globals, locals, fromlist, level)

builtins.__import__ = guarded
"""
FINISH = "from solo_edge.cli import main\nsys.exit(main(sys.argv[1:]))\n"
FINISH_AND_RUN = """
from solo_edge.cli import main
portable, out, image, found = sys.argv[1:]
if main(["build-engine", portable, "-o", out]):
    sys.exit("not finished")
import numpy as np
from solo_edge.runtime.engine import load_engine
with load_engine(out) as engine:
    instances = engine(np.load(image))
np.savez(found, masks=instances.masks, labels=instances.labels, scores=instances.scores)
"""
# Triton's interpreter runs the kernels, which needs PyTorch.
INTERPRETED = """
import sys
sys.modules["cuda.bindings"] = None
import pycuda.driver
from interpreted_kernels import bound, interpret
pycuda.driver.device.kernels = bound(sys.argv[1], pycuda.driver.device, interpret)
"""


def run(code, *arguments, **environment):
    """(exit code, standard output and error) of a process with the stand-ins."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": f"{STANDINS}:{ROOT}", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout + done.stderr


def finish(folder, out, *options, before="", **environment):
    return run(DEVICE + before + FINISH, "build-engine", folder, "-o", out, *options, **environment)


@pytest.fixture(scope="module")
def full(lively_checkpoint, exported, tmp_path_factory):
    """A portable folder of the graph full."""
    pytest.importorskip("onnxruntime")

    def export(model, path, *, graph, precision, postprocess_config, batch):
        shutil.copy(exported(graph, precision, postprocess_config), path)

    folder = tmp_path_factory.mktemp("portable") / "scenes.portable"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("solo_edge.export.onnx.export_onnx", export)
        made = build_portable(lively_checkpoint, folder, target="orin", graph="full")
    assert made.instances > 10
    return folder


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A portable folder of the demo model, graph network, with kernels for an Orin."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("triton")
    folder = tmp_path_factory.mktemp("portable") / "demo.portable"
    # Few candidates: kernels that are interpreted take their time.
    build_portable(DEMO, folder, target="orin", max_candidates=100, score_threshold=0.3)
    return folder


def changed(source, folder, change):
    """A copy of a portable folder, changed by change(folder), that says the truth about its files."""
    content = read_portable(source)
    shutil.copytree(source, folder)
    change(folder)
    (folder / PORTABLE).unlink()
    manifest = dataclasses.replace(content.manifest, files=record_files(folder))
    write_portable(folder, dataclasses.replace(content, manifest=manifest))
    return folder


def assert_same_masks(found, wanted):
    assert len(found["masks"]) == len(wanted) > 0
    assert (found["labels"] == wanted.labels).all()
    np.testing.assert_allclose(found["scores"], wanted.scores, atol=1e-4)
    for mine, theirs in zip(found["masks"], wanted.masks, strict=True):
        assert (mine & theirs).sum() >= 0.999 * (mine | theirs).sum()


def test_the_whole_way_without_pytorch_on_the_device(
    full, lively_checkpoint, tmp_path, reuse_exports
):
    image = make_image((256, 256), seed=5)
    np.save(tmp_path / "image.npy", image)
    out, found = tmp_path / "device.engine", tmp_path / "found.npz"
    code, text = run(DEVICE + FINISH_AND_RUN, full, out, tmp_path / "image.npy", found)
    assert code == 0, text
    assert "self-check: " in text
    assert f"trtexec --onnx={full / GRAPH} " in text
    manifest = read_manifest(out)
    assert (manifest.name, manifest.backend, manifest.graph) == ("device", "tensorrt", "full")
    assert manifest.versions["tensorrt"] == "10.3.0"
    assert manifest.checkpoint_sha256 == sha256_of(lively_checkpoint)
    assert list(manifest.files) == ["engine.plan"]
    cpu = build_engine(
        lively_checkpoint, tmp_path / "cpu.engine", backend="onnxruntime", graph="full"
    )
    with load_engine(cpu) as engine, np.load(found) as arrays:
        assert_same_masks(arrays, engine(image))


def test_the_networks_outputs_are_compared_without_pytorch(network, tmp_path):
    """Without kernels: those would have to be interpreted, in PyTorch."""

    def remove_kernels(folder):
        for file in folder.iterdir():
            if file.name not in (GRAPH, CHECK, PORTABLE):
                file.unlink()

    bare = changed(network, tmp_path / "bare.portable", remove_kernels)
    code, text = finish(bare, tmp_path / "a.engine")
    assert code == 0, text
    assert "self-check: largest difference" in text


@pytest.mark.slow
def test_frames_and_kernels(network, tmp_path):
    """The finished engine has the kernels, and they find what the CPU engine finds."""
    from solo_edge.data.synthetic.scene import render_scene

    image = render_scene(np.random.default_rng(11), (300, 380)).image
    np.save(tmp_path / "image.npy", image)
    out, found = tmp_path / "device.engine", tmp_path / "found.npz"
    code, text = run(
        INTERPRETED + FINISH_AND_RUN,
        network,
        out,
        tmp_path / "image.npy",
        found,
        TRITON_INTERPRET="1",
    )
    assert code == 0, text
    assert {"kernels.json", "preprocess.sm_87.cubin", "engine.plan"} < set(read_manifest(out).files)
    options = {"max_candidates": 100, "score_threshold": 0.3}
    cpu = build_engine(DEMO, tmp_path / "cpu.engine", backend="onnxruntime", **options)
    with load_engine(cpu) as engine, np.load(found) as arrays:
        assert_same_masks(arrays, engine(image))


@pytest.mark.slow
def test_int8_is_decided_on_the_workstation(ranges, tmp_path):
    folder = tmp_path / "int8.portable"
    build_portable(DEMO, folder, target="orin", precision="int8", graph="full", ranges=ranges)
    made = read_portable(folder).manifest
    assert made.quantization.images == 36
    code, text = finish(folder, tmp_path / "a.engine")
    assert code == 0, text
    assert read_manifest(tmp_path / "a.engine").quantization == made.quantization


def test_what_the_folder_says(full, capsys):
    content = read_portable(full)
    assert content.target == "sm_87"
    assert set(content.manifest.files) == {GRAPH, CHECK}
    assert "tensorrt" not in content.manifest.versions
    assert "gpu" not in content.manifest.machine
    assert main(["inspect", str(full)]) == 0
    text = capsys.readouterr().out
    assert f"portable {full}" in text
    assert f"solo-edge build-engine {full} -o scenes.engine" in text
    for load in (load_engine, open_predictor):
        with pytest.raises(
            ArtifactError, match=r"portable folder.*build-engine .* -o scenes\.engi"
        ):
            load(full)


def test_another_model_than_promised_gets_no_name(full, network, tmp_path):
    """Both ways to tell: the instances, and the outputs of the network."""
    import onnx

    def halve(folder):
        model = onnx.load(folder / GRAPH)
        for tensor in model.graph.initializer:
            values = onnx.numpy_helper.to_array(tensor)
            if values.ndim == 4:  # a convolution that was cut short
                half = values.copy()
                half[: len(half) // 2] = 0
                tensor.CopyFrom(onnx.numpy_helper.from_array(half, tensor.name))
        onnx.save(model, folder / GRAPH)

    for source in (full, network):
        out = tmp_path / f"{source.stem}.engine"
        code, text = finish(changed(source, tmp_path / source.name, halve), out)
        assert code == ArtifactError.exit_code
        assert f"{out}: the engine disagrees with the model" in text
        assert not out.exists()
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".portable", ".portable"]


@pytest.mark.parametrize("name", [GRAPH, CHECK, PORTABLE])
def test_damage_is_named_before_anything_is_built(full, tmp_path, name, capsys):
    folder = tmp_path / "a.portable"
    shutil.copytree(full, folder)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 0x80
    (folder / name).write_bytes(content)
    assert main(["build-engine", str(folder), "-o", str(tmp_path / "a.engine")]) == 4
    error = capsys.readouterr().err
    assert error.startswith(f"solo-edge: error: {folder / name}: ")
    assert error.count("\n") == 1
    if name != PORTABLE:
        assert "SHA-256 differs" in error
        assert "copy the whole folder again" in error
        assert main(["inspect", str(folder)]) == 4
    assert [p.name for p in tmp_path.iterdir()] == ["a.portable"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"format": 2}, "format 2 is unknown, this version reads 1"),
        ({"target": 87}, "field 'target'"),
        ({"manifest": {"schema": 1}}, "manifest field 'name' is missing"),
    ],
)
def test_a_description_that_makes_no_sense(full, tmp_path, change, expected):
    folder = tmp_path / "a.portable"
    folder.mkdir()
    values = json.loads((full / PORTABLE).read_text())
    (folder / PORTABLE).write_text(json.dumps(values | change))
    with pytest.raises(ArtifactError) as caught:
        read_portable(folder)
    assert expected in str(caught.value)


def test_a_self_check_without_what_it_needs_is_damaged(full, tmp_path):
    def empty(folder):
        np.savez(folder / CHECK, image=np.zeros((256, 256, 3), np.uint8))

    folder = changed(full, tmp_path / "a.portable", empty)
    code, text = finish(folder, tmp_path / "a")
    assert code == ArtifactError.exit_code
    assert f"{folder / CHECK}: damaged" in text
    assert not (tmp_path / "a").exists()


def on_gpu(capability):
    return f"import simulated_device\nsimulated_device.CAPABILITY = {capability}\n"


def test_a_gpu_that_the_kernels_do_not_fit(network, tmp_path):
    code, text = finish(network, tmp_path / "a.engine", before=on_gpu((7, 5)))
    assert code == ArtifactError.exit_code
    wanted = "the kernels are for compute capability 8.0 and newer or 8.7, but this GPU has 7.5"
    assert f"{wanted}; make the folder with --graph full, which needs no kernels" in text
    assert text.count("\n") == 1


def test_a_newer_gpu_takes_the_portable_kernels(network, tmp_path):
    _, text = finish(network, tmp_path / "a.engine", before=on_gpu((8, 9)))
    # No further: kernels compute nothing on the simulated device unless they are interpreted.
    assert text.startswith("the kernels were compiled for sm_87; this GPU (8.9) takes portable PTX")
    assert "self-check: largest difference" in text


def test_without_kernels_every_gpu_will_do(full, tmp_path):
    code, text = finish(full, tmp_path / "a.engine", before=on_gpu((7, 5)))
    assert code == 0, text


def test_without_tensorrt(full, tmp_path):
    before = "sys.modules['tensorrt'] = None\n"
    code, text = finish(full, tmp_path / "a.engine", before=before)
    assert code == ResourceError.exit_code
    assert "on a Jetson it comes with JetPack" in text
    assert text.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_options_of_tensorrt_reach_the_plan(full, tmp_path):
    out = tmp_path / "a.engine"
    code, text = finish(full, out, "--sparsity", "--cache-folder", tmp_path / "cache")
    assert code == 0, text
    header = (out / "engine.plan").read_bytes().partition(b"\n")[0]
    assert "SPARSE_WEIGHTS" in json.loads(header[header.index(b"{") :])["flags"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--precision", "fp32"], "--precision was decided when the portable folder was made"),
        (["--graph", "full"], "--graph was decided"),
        (["--backend", "openvino"], "--backend was decided"),
        (["--score-threshold", "0.2"], "--score-threshold was decided"),
        (["--calib", "a.json"], "--calib was decided"),
        (["--portable", "orin"], "--portable was decided"),
        (["--plugins"], "plugins are compiled where PyTorch and Triton are"),
        (["--optimization-level", "9"], "it must be 0 to 5"),
    ],
)
def test_what_finishing_refuses(full, tmp_path, capsys, options, expected):
    arguments = ["build-engine", str(full), "-o", str(tmp_path / "a.engine"), *options]
    assert main(arguments) == UsageError.exit_code
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--portable", "orion"], "unknown target 'orion'; did you mean 'orin'?"),
        (
            ["--portable", "orin", "--backend", "openvino"],
            "--portable is for TensorRT, and the back",
        ),
        (["--portable", "orin", "--tf32"], "--tf32 is for the build on the device"),
        (
            ["--portable", "orin", "--precision", "bf16"],
            "tensorrt engines have no precision 'bf16'",
        ),
        (["--portable", "orin", "--precision", "int8"], "int8 needs the ranges of a calibration"),
        (["--portable", "orin", "-o", "a.engine"], "what --portable writes is no engine yet"),
        (["--portable", "orin", "--graph", "full", "--max-candidates", "4000"], "takes 3840"),
    ],
)
def test_what_writing_refuses(tmp_path, monkeypatch, capsys, options, expected):
    monkeypatch.chdir(tmp_path)
    arguments = ["build-engine", "a.safetensors", "-o", "a.portable", *options]
    assert main(arguments) == UsageError.exit_code
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_kernels_need_triton(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(ResourceError, match="Triton"):
        build_portable(DEMO, tmp_path / "a.portable", target="thor")
    assert list(tmp_path.iterdir()) == []


def test_names_that_hold_something_else_are_left_alone(full, tmp_path, capsys):
    folder = tmp_path / "mine.portable"
    folder.mkdir()
    (folder / "note.txt").write_text("mine")
    with pytest.raises(UsageError, match="left as it is"):
        build_portable(DEMO, folder, target="orin", graph="full")
    assert (folder / "note.txt").read_text() == "mine"
    missing = tmp_path / "absent.portable"
    assert main(["build-engine", str(missing), "-o", str(tmp_path / "a.engine")]) == 2
    assert "portable folder not found" in capsys.readouterr().err

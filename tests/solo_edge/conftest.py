"""A small model whose random weights find something, for tests of export and runtime."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from solo_edge.config import PostprocessConfig


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Builds keep what others can use again in a folder of this run, and find nothing of earlier ones."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def machine(tmp_path: Path):
    """machine(name) -> folder with the system files of tests/solo_edge/machines/NAME.tree."""

    def plant(name: str) -> Path:
        root = tmp_path / name
        root.mkdir()
        tree = Path(__file__).with_name("machines") / f"{name}.tree"
        for entry in ("\n" + tree.read_text("utf-8")).split("\n== ")[1:]:
            path, _, content = entry.partition("\n")
            place = root / path.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(content.replace("\\0", "\0") + "\n", "utf-8")
        return root

    return plant


@pytest.fixture(scope="session")
def lively_model():
    """`solov2-nano-256` in evaluation mode, with weights that see instances everywhere."""
    import torch

    from solo_edge.config import preset
    from solo_edge.export.self_check import make_image
    from solo_edge.models.solov2 import SOLOv2
    from solo_edge.preprocess import Preprocess

    torch.manual_seed(0)
    config = preset("solov2-nano-256", num_classes=5)
    model = SOLOv2(config).eval()
    preprocess = Preprocess.from_config(config)
    image = torch.from_numpy(preprocess.normalise(make_image(config.input_size))[np.newaxis])
    with torch.no_grad():
        # Batch norms of random weights shrink the signal away; their statistics of one image keep it.
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.reset_running_stats()
                module.momentum = 1.0
        model.train()(image)
        model.eval()
        head = model.head
        output = model(image)
        logits = (
            torch.cat([x.flatten() for x in output.category_logits]) - head.category_out.bias[0]
        )
        head.category_out.weight *= 2.0 / logits.std()
        level = torch.quantile(logits * 2.0 / logits.std(), 0.97)
        head.category_out.bias.fill_(-2.2 - level.item())
        kernels = torch.cat([x.flatten(2) for x in output.mask_kernels], dim=2)[0]
        masks = kernels.T[::10] @ output.mask_features[0].flatten(1)
        head.kernel_out.weight *= 3.0 / masks.std()
    return model


@pytest.fixture(scope="session")
def lively_checkpoint(lively_model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of `lively_model`."""
    from solo_edge.checkpoint import Checkpoint, save_checkpoint

    names = tuple(f"thing {i}" for i in range(lively_model.config.num_classes))
    path = tmp_path_factory.mktemp("lively") / "lively.safetensors"
    save_checkpoint(path, Checkpoint(lively_model, names, (3, 1, 7, 8, 20)))
    return path


@pytest.fixture(scope="session")
def exported(lively_model, tmp_path_factory: pytest.TempPathFactory):
    """exported(graph, precision, config) -> ONNX file of `lively_model`; each is made once."""
    from solo_edge.export.onnx import export_onnx

    folder = tmp_path_factory.mktemp("exported")
    made: dict[tuple, Path] = {}

    def export(graph="network", precision="fp32", config=None) -> Path:
        config = config or PostprocessConfig()
        key = (graph, precision, config if graph == "full" else None)
        if key not in made:
            path = folder / f"{len(made)}.onnx"
            options = {"graph": graph, "precision": precision, "postprocess_config": config}
            export_onnx(lively_model, path, **options)
            made[key] = path
        return made[key]

    return export


@pytest.fixture
def reuse_exports(exported, monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines built in the test take their ONNX file from `exported`; build them from `lively_checkpoint`."""

    def export(model, path, *, graph, precision, postprocess_config, batch):
        shutil.copy(exported(graph, precision, postprocess_config), path)

    monkeypatch.setattr("solo_edge.export.onnx.export_onnx", export)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 pictures to calibrate with, and 6 others."""
    from solo_edge.cli import main

    folder = tmp_path_factory.mktemp("data") / "scenes"
    assert main(["make-dataset", str(folder), "--images", "40", "--val-images", "6"]) == 0
    return folder


@pytest.fixture(scope="session")
def ranges(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the shipped model, by entropy, on 36 of those pictures."""
    import solo_edge
    from solo_edge.data.coco import open_dataset
    from solo_edge.quantize import calibrate

    lines: list[str] = []
    path = tmp_path_factory.mktemp("ranges") / "ranges.json"
    model = Path(solo_edge.__file__).parent / "assets/solov2-nano-256-scenes.safetensors"
    calibrate(model, open_dataset(scenes, "train"), path, images=36, report=lines.append)
    assert any("only 36 images" in line for line in lines)
    return path

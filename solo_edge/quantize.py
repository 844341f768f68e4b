"""From a checkpoint and images to the ranges of an INT8 engine."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from solo_edge.data.coco import CocoDataset
from solo_edge.errors import AccuracyError, UsageError, did_you_mean
from solo_edge.files import sha256_of

if TYPE_CHECKING:
    from solo_edge.manifest import Measurement
    from solo_edge.runtime.engine import Engine

__all__ = ["METHODS", "accuracy_gate", "calibrate", "refuse_evaluated"]

METHODS = ("max", "percentile", "entropy", "mse")


def calibrate(
    checkpoint: str | Path,
    dataset: CocoDataset,
    out: str | Path,
    *,
    images: int = 256,
    method: str = "entropy",
    percentile: float = 99.99,
    evaluation: CocoDataset | None = None,
    seed: int = 0,
    threads: int | None = None,
    report: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Measure the ranges of the network's activations and write them to `out` (JSON).

    Args:
        checkpoint: a `.safetensors` file or the folder of a training run.
        dataset: images as the engine will see them; not those that it is evaluated on.
        images: how many of them to use.
        method: how an outlier counts: "max" keeps it, "percentile" cuts it off at `percentile`,
            "entropy" (as TensorRT's calibrator) and "mse" weigh it against the rest.
        evaluation: images that must not be among them.
        threads: CPU threads; None is one for each core.
        report: is called with one line about each thing that is worth knowing.
        progress: is called with the number of images done and of all.

    Raises:
        UsageError: an unknown method or an impossible percentile, or nothing at `checkpoint`.
        DataError: too few or unsuitable images, or images of the evaluation.
        ArtifactError: the checkpoint is damaged.
        ResourceError: a package is missing, or `out` cannot be written.
    """
    if method not in METHODS:
        raise UsageError(f"unknown method {method!r}", fix=did_you_mean(method, METHODS))
    if not 99 <= percentile <= 100:
        raise UsageError(f"percentile is {percentile}", fix="use one from 99 to 100")
    from solo_edge.calibration.collect import collect
    from solo_edge.calibration.dataset import choose_images, refuse_overlap
    from solo_edge.calibration.observers import choose_range
    from solo_edge.calibration.qdq import placement
    from solo_edge.calibration.ranges import Ranges
    from solo_edge.checkpoint import find_checkpoint
    from solo_edge.export.onnx import export_onnx
    from solo_edge.runtime.torch_runner import open_checkpoint

    loaded = open_checkpoint(Path(checkpoint))
    chosen = choose_images(dataset, images, seed=seed, report=report)
    if evaluation is not None:
        refuse_overlap({image.sha256: image.file_name for image in chosen}, evaluation)

    def prepared() -> Iterator[NDArray[np.float32]]:
        for done, image in enumerate(chosen):
            progress(done, len(chosen))
            yield loaded.preprocess(dataset.image(image.index))[0][np.newaxis]

    import onnx

    with tempfile.TemporaryDirectory(prefix="calibrate-") as folder:
        path = Path(folder, "model.onnx")
        export_onnx(loaded.model, path)
        model = onnx.load(path)
    histograms = collect(model, placement(model).activations, prepared(), threads=threads)
    progress(len(chosen), len(chosen))
    limits = {
        name: choose_range(histogram, method, percentile=percentile)  # type: ignore[arg-type]  # checked above
        for name, histogram in histograms.items()
    }
    dead = [name for name, limit in limits.items() if limit == 0]
    for name in dead:  # always 0: any step will do
        limits[name] = 1.0
    if dead:
        report(f"{len(dead)} tensors are always 0")
    ranges = Ranges(
        checkpoint_sha256=sha256_of(find_checkpoint(Path(checkpoint))),
        preprocess={k: list(v) for k, v in loaded.preprocess.to_dict().items()},
        method=method,
        percentile=percentile,
        images=tuple((image.file_name, image.sha256) for image in chosen),
        limits=limits,
    )
    ranges.save(Path(out))
    return Path(out)


def refuse_evaluated(ranges: Path, evaluation: CocoDataset) -> None:
    """Raise DataError if the ranges were measured on images of the evaluation."""
    from solo_edge.calibration.dataset import refuse_overlap
    from solo_edge.calibration.ranges import read_ranges

    images = read_ranges(ranges).images
    refuse_overlap({digest: name for name, digest in images}, evaluation)


def accuracy_gate(
    dataset: CocoDataset,
    max_ap_drop: float,
    *,
    report: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Callable[[Engine, Engine], Measurement]:
    """What `build_engine` calls before an INT8 engine takes its name.

    Args:
        dataset: images that calibration did not see.
        max_ap_drop: how many points of mask AP (of 100) INT8 may cost.
    """

    def accept(exact: Engine, small: Engine) -> Measurement:
        from solo_edge.evaluate import evaluate
        from solo_edge.manifest import Measurement

        before = evaluate(exact, dataset, progress=progress).ap
        after = evaluate(small, dataset, progress=progress).ap
        drop = 100 * (before - after)
        line = f"mask AP {before:.4f} in fp32, {after:.4f} in int8 ({-drop:+.2f} points)"
        report(line)
        if not drop <= max_ap_drop:
            fix = "calibrate with more or other images, try another --method, or allow more"
            raise AccuracyError(f"{line}, allowed are {max_ap_drop:g}", fix=fix)
        return Measurement(str(dataset.path), dataset.split, after, len(dataset))

    return accept

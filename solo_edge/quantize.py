"""From a checkpoint and images to the ranges of an INT8 engine."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from solo_edge.errors import UsageError, did_you_mean
from solo_edge.files import sha256_of

if TYPE_CHECKING:
    from solo_edge.calibration.dataset import CalibrationImage
    from solo_edge.calibration.folder import ImageFolder
    from solo_edge.calibration.histogram import Histogram
    from solo_edge.checkpoint import Checkpoint
    from solo_edge.data.coco import CocoDataset

__all__ = ["METHODS", "Stages", "calibrate", "refuse_evaluated"]

METHODS = ("auto", "entropy", "percentile", "max", "mse")
FEW_IMAGES = 12  # on which single layers run, of those that the ranges come from

# Title of a stage -> a context that gives what to call with the number of images done and of all.
Stages = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]


def _silent(title: str) -> AbstractContextManager[Callable[[int, int], None]]:
    return nullcontext(lambda done, total: None)


def calibrate(
    checkpoint: str | Path,
    dataset: CocoDataset | ImageFolder,
    out: str | Path,
    *,
    images: int = 256,
    method: str = "entropy",
    percentile: float = 99.99,
    bias_correction: bool = True,
    evaluation: CocoDataset | None = None,
    seed: int = 0,
    threads: int | None = None,
    allow_unlike: bool = False,
    report: Callable[[str], None] = lambda line: None,
    progress: Stages = _silent,
) -> Path:
    """Measure the ranges of the network's activations and write them to `out` (JSON).

    Args:
        checkpoint: a `.safetensors` file or the folder of a training run.
        dataset: images as the engine will see them; not those that it is evaluated on. They need no
            annotations, see `solo_edge.calibration.folder.open_images`.
        images: how many of them to use.
        method: how an outlier counts: "max" keeps it, "percentile" cuts it off at `percentile`,
            "entropy" (as TensorRT's calibrator) and "mse" weigh it against the rest; "auto" takes for
            each tensor the one that disturbs the layers behind it least.
        bias_correction: undo in the biases what rounding does to the means of the layers' outputs.
        evaluation: images that must not be among them.
        threads: CPU threads; None is one for each core.
        allow_unlike: calibrate also with images that clearly are not what the network was trained on.
        report: is called with one line about each thing that is worth knowing.
        progress: is entered for each stage with its title, see `Stages`.

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
    from solo_edge.calibration.observers import choose_range
    from solo_edge.calibration.qdq import placement
    from solo_edge.calibration.ranges import Ranges
    from solo_edge.checkpoint import find_checkpoint
    from solo_edge.runtime.torch_runner import open_checkpoint

    loaded = open_checkpoint(Path(checkpoint))
    chosen = _choose(dataset, images, seed, evaluation, report, progress)
    _require_plausible(loaded, dataset, chosen, allow_unlike, report, progress)
    model = _exported(loaded)

    def prepared(
        these: Sequence[CalibrationImage], show: Callable[[int, int], None]
    ) -> Iterator[NDArray[np.float32]]:
        for done, image in enumerate(these):
            show(done, len(these))
            yield loaded.preprocess(dataset.image(image.index))[0][np.newaxis]
        show(len(these), len(these))

    with progress("calibrating") as show:
        where = placement(model)
        histograms = collect(model, where.activations, prepared(chosen, show), threads=threads)
    few = chosen[:: max(1, len(chosen) // FEW_IMAGES)][:FEW_IMAGES]
    if method == "auto":
        with progress("choosing ranges") as show:
            limits = _automatic(model, histograms, prepared(few, show), threads, report)
    else:
        limits = {
            name: choose_range(histogram, method, percentile=percentile)  # type: ignore[arg-type]  # checked above
            for name, histogram in histograms.items()
        }
    dead = [name for name in histograms if not limits.get(name)]
    for name in dead:  # always 0: any step will do
        limits[name] = 1.0
    if dead:
        report(f"{len(dead)} tensors are always 0")
    by_site = {where.sites[name]: limit for name, limit in limits.items()}
    shifts = {}
    if bias_correction:
        from solo_edge.calibration.bias_correction import bias_shifts

        with progress("correcting biases") as show:
            found = bias_shifts(model, by_site, prepared(few, show), threads=threads)
        shifts = {call: [float(value) for value in row] for call, row in found.items()}
    ranges = Ranges(
        checkpoint_sha256=sha256_of(find_checkpoint(Path(checkpoint))),
        preprocess={k: list(v) for k, v in loaded.preprocess.to_dict().items()},
        method=method,
        percentile=percentile,
        images=tuple((image.file_name, image.sha256) for image in chosen),
        limits=by_site,
        bias_shifts=shifts,
    )
    ranges.save(Path(out))
    return Path(out)


def _choose(
    dataset: CocoDataset | ImageFolder,
    count: int,
    seed: int,
    evaluation: CocoDataset | None,
    report: Callable[[str], None],
    progress: Stages,
) -> list[CalibrationImage]:
    """The images, none of them one of the evaluation."""
    from solo_edge.calibration.dataset import choose_images, refuse_overlap, report_near_copies

    for line in dataset.warnings:
        report(line)
    with progress("choosing images") as show:
        chosen = choose_images(dataset, count, seed=seed, report=report, progress=show)
    if evaluation is not None:
        refuse_overlap({image.sha256: image.file_name for image in chosen}, evaluation)
        with progress("comparing with the evaluation") as show:
            report_near_copies(chosen, evaluation, report, show)
    return chosen


def _require_plausible(
    loaded: Checkpoint,
    dataset: CocoDataset | ImageFolder,
    chosen: Sequence[CalibrationImage],
    allow: bool,
    report: Callable[[str], None],
    progress: Stages,
) -> None:
    from solo_edge.calibration.plausibility import require_plausible

    with progress("checking images") as show:
        require_plausible(
            loaded.model.backbone,
            loaded.preprocess,
            [partial(dataset.image, image.index) for image in chosen],
            where=str(dataset.path),
            allow=allow,
            report=report,
            progress=show,
        )


def _automatic(
    model: Any,
    histograms: Mapping[str, Histogram],
    images: Iterator[NDArray[np.float32]],
    threads: int | None,
    report: Callable[[str], None],
) -> dict[str, float]:
    """The range of each tensor that is not always 0."""
    from solo_edge.calibration.automatic import candidates, choose_by_output

    chosen = choose_by_output(model, histograms, images, threads=threads)
    counts = Counter(chosen.values()).most_common()
    report("auto: " + ", ".join(f"{name} for {count} tensors" for name, count in counts))
    return {tensor: candidates(histograms[tensor])[name] for tensor, name in chosen.items()}


def _exported(loaded: Checkpoint) -> Any:
    """The ONNX graph of its network."""
    import onnx

    from solo_edge.export.onnx import export_onnx

    with tempfile.TemporaryDirectory(prefix="calibrate-") as folder:
        path = Path(folder, "model.onnx")
        export_onnx(loaded.model, path)
        return onnx.load(path)


def refuse_evaluated(ranges: Path, evaluation: CocoDataset) -> None:
    """Raise DataError if the ranges were measured on images of the evaluation."""
    from solo_edge.calibration.dataset import refuse_overlap
    from solo_edge.calibration.ranges import read_ranges

    images = read_ranges(ranges).images
    refuse_overlap({digest: name for name, digest in images}, evaluation)

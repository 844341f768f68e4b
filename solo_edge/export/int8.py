"""INT8 engines of one network, with more or fewer layers in INT8."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from solo_edge.config import PostprocessConfig
from solo_edge.errors import ArtifactError
from solo_edge.files import sha256_of
from solo_edge.manifest import Backend, Graph, cell_strides

if TYPE_CHECKING:
    from solo_edge.calibration.ranges import Ranges
    from solo_edge.checkpoint import Checkpoint
    from solo_edge.runtime.base import Runner
    from solo_edge.runtime.engine import Engine

__all__ = ["Int8Build", "Verdict", "cpu_opener", "read_fitting_ranges"]


@dataclass(frozen=True)
class Verdict:
    """What an accuracy gate found out."""

    excluded: tuple[str, ...]  # weights whose convolutions stay in float
    float_share: float  # of the multiply-adds that could be INT8, 0..1
    float_ap: float  # COCO mask AP, 0..1
    int8_ap: float
    mask_iou: float  # mean IoU of the instances that both found, INT8 against float
    data: str
    split: str
    images: int


@dataclass(frozen=True)
class Int8Build:
    """A float graph with its ranges, and what is needed to run INT8 forms of it.

    Args:
        float_file: the ONNX file without pairs.
        open_runner: loads an ONNX file; its precision is written into it.
        folder: for scratch files.
    """

    float_file: Path
    ranges: Ranges
    checkpoint: Checkpoint
    graph: Graph
    config: PostprocessConfig
    backend: Backend
    open_runner: Callable[[Path], Runner]
    folder: Path

    @cached_property
    def multiply_adds(self) -> dict[str, int]:
        """Of each layer that can be INT8, for one image."""
        import onnx

        from solo_edge.calibration.layers import multiply_adds
        from solo_edge.calibration.qdq import placement

        model = onnx.load(self.float_file)
        costs = multiply_adds(model)
        return {name: costs[name] for name in placement(model).weights}

    def float_share(self, excluded: Collection[str]) -> float:
        """How much of the multiply-adds that could be INT8 stay in float, 0..1."""
        costs = self.multiply_adds
        return sum(costs[name] for name in excluded) / sum(costs.values())

    def write(self, path: Path, excluded: Collection[str]) -> None:
        """Write the graph with pairs for all layers but `excluded`.

        Raises:
            ArtifactError: a range is missing, there is no such layer, or TensorRT would refuse the pairs.
        """
        import onnx

        from solo_edge.calibration.qdq import insert_pairs, problems
        from solo_edge.export.group_norm import suit_backend

        read = self.ranges
        model = insert_pairs(onnx.load(self.float_file), read.limits, excluded, read.bias_shifts)
        if found := problems(model):
            raise ArtifactError(f"the INT8 graph has mistakes ({found[0]})", where=path)
        suit_backend(model, self.backend, "int8")
        path.write_bytes(model.SerializeToString(deterministic=True))

    @contextmanager
    def float_engine(self) -> Iterator[Engine]:
        """The network in float32, through the same code as `int8_engine`."""
        from solo_edge.export.group_norm import suit_file

        path = self.folder / "float.onnx"
        shutil.copyfile(self.float_file, path)
        suit_file(path, self.backend, "fp32")
        with self._engine(path, "fp32") as engine:
            yield engine

    @contextmanager
    def int8_engine(self, excluded: Collection[str]) -> Iterator[Engine]:
        """The network in INT8 but for `excluded`."""
        path = self.folder / "candidate.onnx"
        self.write(path, excluded)
        with self._engine(path, "int8") as engine:
            yield engine

    def _engine(self, path: Path, precision: Any) -> Engine:
        from solo_edge.runtime.engine import Engine

        return Engine(
            name=path.stem,
            backend=self.backend,
            precision=precision,
            graph=self.graph,
            class_names=self.checkpoint.class_names,
            category_ids=self.checkpoint.category_ids,
            preprocess=self.checkpoint.preprocess,
            postprocess_config=self.config,
            runner=self.open_runner(path),
            cell_strides=cell_strides(self.checkpoint.config),
        )


def cpu_opener(backend: Backend, threads: int | None = None) -> Callable[[Path], Runner]:
    """What loads an ONNX file as INT8 engines of `backend` do."""
    if backend == "openvino":
        from solo_edge.runtime.openvino_runner import OpenVINORunner

        return lambda path: OpenVINORunner(path, precision="int8", threads=threads)
    from solo_edge.runtime.onnx_runner import OnnxRunner

    return lambda path: OnnxRunner(path, threads=threads)


def read_fitting_ranges(path: Path, checkpoint_file: Path, checkpoint: Checkpoint) -> Ranges:
    """The ranges in a file of `solo-edge calibrate`.

    Raises:
        UsageError: there is no such file.
        ArtifactError: it is damaged, or was measured with another model or preprocessing.
    """
    from solo_edge.calibration.ranges import read_ranges

    ranges = read_ranges(path)
    ranges.require_fit(sha256_of(checkpoint_file), checkpoint.preprocess, path)
    return ranges

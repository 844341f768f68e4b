"""PyTorch itself, on a GPU or the CPU: for development, and for GPUs without TensorRT."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from solo_edge.config import PostprocessConfig
from solo_edge.errors import ResourceError
from solo_edge.manifest import Graph, Precision, TensorSpec, describe_tensors
from solo_edge.runtime.base import Runner

if TYPE_CHECKING:
    import torch

    from solo_edge.checkpoint import Checkpoint
    from solo_edge.models.solov2 import SOLOv2

__all__ = ["TorchRunner", "cuda_works", "open_checkpoint"]


def open_checkpoint(path: Path) -> Checkpoint:
    """`solo_edge.checkpoint.load_checkpoint`, or a ResourceError where PyTorch is not installed."""
    try:
        from solo_edge.checkpoint import load_checkpoint

        return load_checkpoint(path)
    except ImportError as error:
        what = f"a checkpoint needs {error.name}, which is not installed"
        fix = "pip install 'solo-edge[train]', or build an engine of it elsewhere"
        raise ResourceError(what, where=path, fix=fix) from error


def cuda_works() -> bool:
    """Whether PyTorch can compute on a GPU here."""
    import torch

    return torch.cuda.is_available()


class TorchRunner(Runner):
    """A model as one of the two graphs, on the GPU if there is one, else on the CPU.

    Args:
        model: is left as it is.
        graph: "network" or "full".
        precision: "fp32", "bf16", or on a GPU "fp16".
        config: thresholds of the full graph.
        batch: images for each run.
        threads: CPU threads of PyTorch, for the whole process; None leaves them as they are.

    Raises:
        ResourceError: fp16 without a GPU.
    """

    def __init__(
        self,
        model: SOLOv2,
        *,
        graph: Graph = "network",
        precision: Precision = "fp32",
        config: PostprocessConfig | None = None,
        batch: int = 1,
        threads: int | None = None,
    ):
        import torch

        from solo_edge.runtime.graphs import graph_module

        self.device = torch.device("cuda" if cuda_works() else "cpu")
        if precision == "fp16" and self.device.type == "cpu":
            fix = "build the engine with --precision fp32 or bf16"
            raise ResourceError("fp16 needs a CUDA GPU, and there is none", fix=fix)
        if threads is not None:
            torch.set_num_threads(threads)
        config = config or PostprocessConfig()
        self.inputs, self.outputs = describe_tensors(model.config, graph, config, batch)
        self.lasting = self.device.type == "cpu"
        self._module = graph_module(model, graph, precision, config).to(self.device)
        self._host: dict[TensorSpec, torch.Tensor] = {}
        self._replay: Callable[[], Sequence[torch.Tensor]] | None = None
        if self.device.type == "cuda":
            for spec in (*self.inputs, *self.outputs):
                dtype = getattr(torch, spec.dtype)
                self._host[spec] = torch.empty(spec.shape, dtype=dtype, pin_memory=True)

    def _infer(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        import torch

        with torch.inference_mode():
            if self.device.type == "cpu":
                found = self._module(*(torch.from_numpy(inputs[s.name]) for s in self.inputs))
                return {s.name: t.numpy() for s, t in zip(self.outputs, found, strict=True)}
            for spec in self.inputs:
                np.copyto(self._host[spec].numpy(), inputs[spec.name])
            if self._replay is None:
                self._images = [self._host[spec].to(self.device) for spec in self.inputs]
                self._replay = self._capture()
            for spec, image in zip(self.inputs, self._images, strict=True):
                image.copy_(self._host[spec], non_blocking=True)
            found = self._replay()
            for spec, tensor in zip(self.outputs, found, strict=True):
                self._host[spec].copy_(tensor, non_blocking=True)
            torch.cuda.current_stream(self.device).synchronize()
        return {spec.name: self._host[spec].numpy() for spec in self.outputs}

    def _capture(self) -> Callable[[], Sequence[torch.Tensor]]:
        """What computes the outputs from `self._images`: one CUDA graph, so one launch for the CPU."""
        import torch

        def run() -> Sequence[torch.Tensor]:
            # Convolutions of a float32 network would otherwise be computed in TF32, with 10 bits.
            with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):
                outputs: Sequence[torch.Tensor] = self._module(*self._images)
                return outputs

        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(3):  # cuDNN chooses its algorithms, Triton compiles
                run()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            outputs = run()

        def replay() -> Sequence[torch.Tensor]:
            graph.replay()
            return outputs

        return replay

    def close(self) -> None:
        self._host.clear()
        self._replay = None
        with contextlib.suppress(AttributeError):  # closed before
            del self._module

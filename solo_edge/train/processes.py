"""One process of several that train together, started by torchrun, or a process of its own.

Every process computes its share of each batch. Gradients are summed by hand after the last backward pass of a
step, not by DistributedDataParallel's hooks during it: so a process that runs out of memory can compute its
share once more in smaller pieces while the others wait.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from solo_edge.errors import ResourceError, UsageError
from solo_edge.run_folder import TrainingState

__all__ = ["Processes"]

BUCKET_BYTES = 25 << 20  # of gradients that are summed in one call
# The others wait while the first one validates.
PATIENCE = datetime.timedelta(hours=2)


class Processes:
    """This process and the others; with a `world_size` of 1 nothing is exchanged."""

    def __init__(
        self, rank: int = 0, world_size: int = 1, local_rank: int = 0, local_size: int = 1
    ):
        self.rank, self.world_size = rank, world_size
        self.local_rank, self.local_size = local_rank, local_size

    @property
    def is_first(self) -> bool:
        """Whether this is the one that validates, writes and reports."""
        return self.rank == 0

    @classmethod
    @contextlib.contextmanager
    def joined(cls, device: str) -> Iterator[Processes]:
        """The processes that torchrun started with this one, connected.

        Args:
            device: as in `TrainConfig`; with CUDA each process of a machine gets a GPU of its own.

        Raises:
            UsageError: torchrun's variables are incomplete, or there are too few GPUs.
            ResourceError: the others cannot be reached.
        """
        if os.environ.get("WORLD_SIZE", "1") == "1":
            yield cls()
            return
        try:
            names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
            processes = cls(*(int(os.environ[name]) for name in names))
        except (KeyError, ValueError) as error:
            fix = "start several processes with torchrun"
            raise UsageError(f"WORLD_SIZE is set, but {error}", fix=fix) from None
        cuda = device == "auto" and torch.cuda.is_available()
        if cuda or device.startswith("cuda"):
            processes._require_own_gpu(device)
            torch.cuda.set_device(processes.local_rank)
        with _reachable():
            backend = "cpu:gloo,cuda:nccl" if cuda or device.startswith("cuda") else "gloo"
            dist.init_process_group(backend, timeout=PATIENCE)
        try:
            yield processes
        finally:
            dist.destroy_process_group()

    def _require_own_gpu(self, device: str) -> None:
        if ":" in device:
            fix = "leave --device away; each process takes the GPU of its number"
            raise UsageError(f"--device {device} with several processes", fix=fix)
        if self.local_size > torch.cuda.device_count():
            raise UsageError(
                f"torchrun started {self.local_size} processes here for"
                f" {torch.cuda.device_count()} GPUs",
                fix=f"use --nproc-per-node {torch.cuda.device_count()} or --device cpu",
            )

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sum of each value over all processes."""
        if self.world_size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        with _reachable():
            dist.all_reduce(tensor)
        summed: list[float] = tensor.tolist()
        return summed

    def any(self, flag: bool) -> bool:
        """Whether it is set in any process."""
        return self.sum([float(flag)])[0] > 0

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace the gradients of all that learns by their sum over the processes."""
        if self.world_size == 1:
            return
        learning = [parameter for parameter in parameters if parameter.requires_grad]
        for parameter in learning:
            if parameter.grad is None:  # no image of the batch came here
                parameter.grad = torch.zeros_like(parameter)
        with _reachable():
            for bucket in _buckets(learning):
                gradients = [p.grad for p in bucket if p.grad is not None]
                flat = torch.cat([gradient.flatten() for gradient in gradients])
                dist.all_reduce(flat)
                parts = flat.split([gradient.numel() for gradient in gradients])
                for gradient, part in zip(gradients, parts, strict=True):
                    gradient.copy_(part.view_as(gradient))

    def share_state(self, state: TrainingState | None) -> TrainingState:
        """The state of the first process, in all of them. The others give None."""
        if self.world_size == 1:
            assert state is not None
            return state
        with _reachable():
            description: dict[str, Any] = {}
            if state is not None:
                kinds = {k: [list(v.shape), str(v.dtype)] for k, v in state.tensors.items()}
                description = {"facts": state.facts(), "tensors": kinds}
            description = _share_json(description)
            tensors = {}
            for name, (shape, dtype) in description["tensors"].items():
                if state is not None:
                    tensor = state.tensors[name].detach().cpu().contiguous()
                else:
                    tensor = torch.empty(shape, dtype=getattr(torch, dtype.removeprefix("torch.")))
                dist.broadcast(tensor, 0)
                tensors[name] = tensor
        return TrainingState(tensors, **description["facts"])


def _share_json(value: dict[str, Any]) -> dict[str, Any]:
    """The first process's `value` in all of them. (PyTorch's function for objects would unpickle.)"""
    text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    length = torch.tensor([len(text)])
    dist.broadcast(length, 0)
    if dist.get_rank() != 0:
        text = torch.empty(int(length), dtype=torch.uint8)
    dist.broadcast(text, 0)
    shared: dict[str, Any] = json.loads(bytes(text.tolist()))
    return shared


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        bytes_here = parameter.numel() * parameter.element_size()
        if bucket and (size + bytes_here > BUCKET_BYTES or parameter.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += bytes_here
    if bucket:
        yield bucket


@contextlib.contextmanager
def _reachable() -> Iterator[None]:
    """Turn PyTorch's complaints about connections into one line."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        detail = str(error).strip().splitlines()[0][:200]
        raise ResourceError(
            f"the other training processes cannot be reached ({detail})",
            fix="see the message of the process that ended first; check --nproc-per-node and the network",
        ) from error

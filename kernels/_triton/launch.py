"""Runs a plan on torch tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import torch
from torch import Tensor

from solo_edge.kernels._triton import kernel
from solo_edge.kernels.plan import Plan

__all__ = ["run_plan"]

allocate = torch.empty  # a name of its own, so that tests can fill it with poison


def run_plan(plan: Plan, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Queue the plan's launches on the current stream; nothing waits for them.

    All memory comes from torch's allocator, so a CUDA graph can capture the call.

    Args:
        inputs: a tensor for each of `plan.inputs`, with the shape and type that the plan says; on
            one device.

    Returns:
        The tensors of `plan.outputs`.

    Raises:
        ValueError: an input has another shape or type.
    """
    tensors = {}
    for name in plan.inputs:
        buffer, tensor = plan.buffers[name], inputs[name]
        if tuple(tensor.shape) != buffer.shape or tensor.dtype != getattr(torch, buffer.dtype):
            raise ValueError(
                f"{name} must be {buffer.dtype} {list(buffer.shape)},"
                f" got {tensor.dtype} {list(tensor.shape)}"
            )
        tensors[name] = tensor.contiguous()
    device = next(iter(tensors.values())).device
    for name, buffer in plan.buffers.items():
        if name not in tensors:
            dtype = getattr(torch, buffer.dtype)
            tensors[name] = allocate(buffer.shape, dtype=dtype, device=device)
            if buffer.zeroed:
                tensors[name].zero_()
    on_device = torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
    with on_device:
        for launch in plan.launches:
            arguments = {
                name: tensors[value] if isinstance(value, str) else value
                for name, value in launch.arguments.items()
            }
            kernel(launch.kernel)[launch.grid](
                **arguments,
                **launch.constants,
                num_warps=launch.num_warps,
                num_stages=launch.num_stages,
            )
    return {name: tensors[name] for name in plan.outputs}

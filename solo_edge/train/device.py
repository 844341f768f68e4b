"""Where training runs, and in which precision."""

from __future__ import annotations

import torch

from solo_edge.errors import ResourceError, UsageError

__all__ = ["amp_dtype", "find_device"]


def find_device(name: str) -> torch.device:
    """The device that `--device` names.

    Raises:
        UsageError: no such device. ResourceError: PyTorch sees no CUDA GPU.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device is {name!r}", fix="use auto, cpu, cuda or cuda:1") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ResourceError("PyTorch sees no CUDA GPU", where=f"--device {name}", fix="use cpu")
    return device


def amp_dtype(device: torch.device) -> torch.dtype | None:
    """What mixed precision computes in; None where it would not be faster."""
    if device.type == "cuda":
        return torch.float16
    # On a CPU without bfloat16 instructions, autocast is slower than float32.
    supported = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if device.type == "cpu" and supported else None

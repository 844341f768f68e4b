"""Which implementation serves a call, and the way of its arguments there and back."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

__all__ = ["ArrayT", "available_backends", "is_bool", "is_float", "is_integer", "run"]

ArrayT = TypeVar("ArrayT", bound="NDArray[Any] | torch.Tensor")

# The modules of one backend each have the same functions under the same names.
_MODULES = {
    "triton": "solo_edge.kernels._triton.operations",
    "torch": "solo_edge.kernels.reference",
    "numpy": "solo_edge.kernels.host",
}


def available_backends() -> tuple[str, ...]:
    """The names that `backend=` accepts on this machine. Imports nothing."""
    if importlib.util.find_spec("torch") is None:
        return ("numpy",)
    if importlib.util.find_spec("triton") is None:
        return ("torch", "numpy")
    return ("triton", "torch", "numpy")


def run(op: str, backend: str, *arguments: Any, **options: Any) -> Any:
    """Call `op` of the chosen backend; its results are of the kind of the arguments.

    An argument is an array or a sequence of arrays. `auto` is numpy for arrays, triton for tensors
    on a CUDA GPU where it is installed, and torch for other tensors.

    Raises:
        ValueError: no such backend, or not on this machine.
        TypeError: an argument is neither a tensor nor an array, or the kinds are mixed.
    """
    arrays = [a for x in arguments for a in (x if isinstance(x, Sequence) else (x,))]
    for array in arrays:
        if not _is_tensor(array) and not isinstance(array, np.ndarray):
            raise TypeError(f"{op} takes torch tensors or NumPy arrays, got {type(array).__name__}")
    if len({_is_tensor(array) for array in arrays}) > 1:
        raise TypeError(f"{op} takes torch tensors or NumPy arrays, got both")
    first = arrays[0]
    tensors = _is_tensor(first)
    name = _choose(backend, first)
    function = getattr(importlib.import_module(_MODULES[name]), op)
    if tensors == (name != "numpy"):
        return function(*arguments, **options)
    if tensors:
        result = function(*(_each(argument, _to_array) for argument in arguments), **options)
        floats = [array.dtype for array in arrays if is_float(array)]

        def back(array: NDArray[Any]) -> torch.Tensor:
            # Half precision went there as float32; NumPy has no bfloat16.
            return _to_tensor(array).to(
                first.device, floats[-1] if floats and is_float(array) else None
            )

        return _each(result, back)
    result = function(*(_each(argument, _to_tensor) for argument in arguments), **options)
    return _each(result, lambda tensor: tensor.numpy())


def is_bool(array: Any) -> bool:
    return _kind(array) == "b"


def is_float(array: Any) -> bool:
    return _kind(array) == "f"


def is_integer(array: Any) -> bool:
    return _kind(array) in "iu"


def _kind(array: Any) -> str:
    """NumPy's letter for the kind of number: b, i, u, f or another."""
    if not _is_tensor(array):
        return str(np.asarray(array).dtype.kind)
    name = str(array.dtype).removeprefix("torch.")
    return "f" if name.startswith("bfloat") else name[0]


def _choose(backend: str, first: Any) -> str:
    if backend == "auto":
        if not _is_tensor(first):
            return "numpy"
        return "triton" if first.is_cuda and "triton" in available_backends() else "torch"
    if backend not in _MODULES:
        known = ", ".join(("auto", *available_backends()))
        raise ValueError(f"backend must be one of {known}, got {backend!r}")
    if backend not in available_backends():
        raise ValueError(f"backend {backend!r} is not installed here; use 'numpy' or 'auto'")
    on_gpu = _is_tensor(first) and first.is_cuda
    if backend == "triton" and not on_gpu and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError("backend 'triton' takes tensors on a CUDA GPU; use 'auto' for others")
    return backend


def _is_tensor(array: Any) -> bool:
    # Whoever holds a tensor has imported torch; asking this way never does.
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def _to_tensor(array: NDArray[Any]) -> torch.Tensor:
    import torch

    # Negative strides and read-only memory are foreign to torch.
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def _to_array(tensor: torch.Tensor) -> NDArray[Any]:
    import torch

    tensor = tensor.detach().cpu()
    half = tensor.dtype in (torch.float16, torch.bfloat16)
    array: NDArray[Any] = (tensor.float() if half else tensor).numpy()
    return array


def _each(value: Any, convert: Any) -> Any:
    """`convert` applied to an array, or to each array of a sequence or named tuple."""
    if not isinstance(value, Sequence):
        return convert(value)
    converted = [convert(item) for item in value]
    return type(value)(*converted) if hasattr(value, "_fields") else converted

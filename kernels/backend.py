"""Which implementation serves a call, and the way of its arguments there and back."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

__all__ = ["ArrayT", "available_backends", "is_bool", "is_float", "is_integer", "run"]

ArrayT = TypeVar("ArrayT", bound="NDArray[Any] | torch.Tensor")

# The modules of one backend each have the same functions under the same names.
_MODULES = {"torch": "solo_edge.kernels.reference", "numpy": "solo_edge.kernels.host"}


def available_backends() -> tuple[str, ...]:
    """The names that `backend=` accepts on this machine. Imports nothing."""
    has_torch = importlib.util.find_spec("torch") is not None
    return ("torch", "numpy") if has_torch else ("numpy",)


def run(op: str, backend: str, *arrays: Any, **options: Any) -> Any:
    """Call `op` of the chosen backend with `arrays`; its results are of the kind of the first array.

    `auto` is torch for tensors (on their own device) and numpy for arrays.

    Raises:
        ValueError: no such backend, or not on this machine.
        TypeError: an argument is neither a tensor nor an array, or the kinds are mixed.
    """
    tensors = [_is_tensor(array) for array in arrays]
    for array, tensor in zip(arrays, tensors, strict=True):
        if not tensor and not isinstance(array, np.ndarray):
            raise TypeError(f"{op} takes torch tensors or NumPy arrays, got {type(array).__name__}")
    if len(set(tensors)) > 1:
        raise TypeError(f"{op} takes torch tensors or NumPy arrays, got both")
    name = _choose(backend, tensors[0])
    function = getattr(importlib.import_module(_MODULES[name]), op)
    if tensors[0] == (name == "torch"):
        return function(*arrays, **options)
    if name == "torch":
        result = function(*(_to_tensor(array) for array in arrays), **options)
        return _each(result, lambda tensor: tensor.numpy())
    result = function(*(_to_array(tensor) for tensor in arrays), **options)
    device = arrays[0].device
    floats = [array.dtype for array in arrays if is_float(array)]

    def back(array: NDArray[Any]) -> torch.Tensor:
        # Half precision went there as float32; NumPy has no bfloat16.
        return _to_tensor(array).to(device, floats[-1] if floats and is_float(array) else None)

    return _each(result, back)


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


def _choose(backend: str, tensors: bool) -> str:
    if backend == "auto":
        return "torch" if tensors else "numpy"
    if backend == "triton":
        raise ValueError("backend 'triton' is not available in this version; use 'torch' or 'auto'")
    if backend not in _MODULES:
        known = ", ".join(("auto", *available_backends()))
        raise ValueError(f"backend must be one of {known}, got {backend!r}")
    if backend not in available_backends():
        raise ValueError(f"backend {backend!r} is not installed here; use 'numpy' or 'auto'")
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


def _each(result: Any, convert: Any) -> Any:
    """`convert` applied to an array, or to each array of a named tuple."""
    if isinstance(result, tuple):
        return type(result)(*map(convert, result))
    return convert(result)

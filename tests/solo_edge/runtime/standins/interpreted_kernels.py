"""Kernels for the simulated device: Triton's interpreter runs the source that they were compiled from."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np


def bound(folder, device, run):
    """What `device.kernels` wants, for a folder of kernels.

    Args:
        run: is called with a kernel's name, constants, grid, and its arguments by name: numbers, and
            arrays that look at the device's memory.
    """
    values = json.loads((Path(folder) / "kernels.json").read_text())
    found = {}
    for plan in values["plans"].values():
        for launch in plan["launches"]:
            made = values["kernels"][launch["kernel"]]
            assert made["entry"] not in found
            found[made["entry"]] = _binder(made, launch["arguments"], plan["buffers"], device, run)
    return found


def _binder(made, parameters, buffers, device, run):
    def call(grid, arguments):
        given = {}
        for parameter, (kind, value) in zip(parameters, arguments, strict=True):
            name = parameter["name"]
            given[name] = value
            if kind == "pointer":
                buffer = buffers[parameter["buffer"]]
                dtype, shape = np.dtype(buffer["dtype"]), buffer["shape"]
                if name == "frame":  # as large as the frame is, whatever the plan says
                    given[name] = device.at(value)
                else:
                    size = math.prod(shape) * dtype.itemsize
                    given[name] = device.at(value, size).view(dtype).reshape(shape)
        run(made["entry"], made["constants"], tuple(grid), given)

    return call


# The interpreter's time is the number of programs, not of pixels; these sizes change no result.
LARGER = {
    "preprocess_kernel": {"BLOCK_Y": 128, "BLOCK_X": 256},
    "instance_probabilities_kernel": {"BLOCK_N": 64, "BLOCK_P": 2048},
    "mask_overlap_kernel": {"BLOCK_I": 64, "BLOCK_J": 64},
}


def interpret(name, constants, grid, given):
    """Run one kernel in Triton's interpreter."""
    import torch

    from solo_edge.kernels._triton import kernel
    from solo_edge.kernels.aot_folder import GRIDS

    constants = {**constants, **LARGER.get(name, {})}
    numbers = {key: value for key, value in given.items() if not isinstance(value, np.ndarray)}
    names = {**constants, **numbers, "batch": 1, "ceil": math.ceil}
    arguments = {
        key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for key, value in given.items()
    }
    with np.errstate(over="ignore"):  # the sigmoid of a number far below 0, which is 0
        kernel(name)[eval(GRIDS[name], {}, names)](**arguments, **constants)

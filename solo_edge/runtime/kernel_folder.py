"""A folder of kernels that were compiled ahead of time: what `kernels.json` says, checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from solo_edge.errors import ArtifactError, UsageError, did_you_mean
from solo_edge.files import read_json, sha256_of
from solo_edge.kernels.aot_folder import FORMAT, KERNELS_FILE
from solo_edge.kernels.plan import Buffer
from solo_edge.runtime.cuda_driver import ArgumentKind, Size3

__all__ = [
    "KERNELS_FILE",
    "Argument",
    "Kernel",
    "KernelFolder",
    "KernelPlan",
    "PlannedLaunch",
    "Variant",
    "check_names",
    "read_kernels",
]

HOW_TO_BUILD = "build it with solo-edge kernels build"
KINDS = ("pointer", "int32", "float32")


@dataclass(frozen=True)
class Variant:
    """One file of a kernel, and how it is launched."""

    file: str
    sha256: str
    compute_capability: tuple[int, int]
    newer_too: bool  # else for exactly that compute capability
    block: Size3
    shared_bytes: int

    def fits(self, compute_capability: str) -> bool:
        """Whether the file is for a device of that compute capability ("8.7")."""
        here = _version(compute_capability)
        same = here == self.compute_capability
        return same or (self.newer_too and here > self.compute_capability)

    def __str__(self) -> str:
        major, minor = self.compute_capability
        return f"{major}.{minor}{' and newer' if self.newer_too else ''}"


@dataclass(frozen=True)
class Kernel:
    """One kernel: its name in the files, which are in the order to try them."""

    entry: str
    constants: Mapping[str, Any]  # compile-time parameters
    variants: tuple[Variant, ...]


class Argument(NamedTuple):
    """A parameter's value: the name of a buffer, or a number."""

    name: str
    kind: ArgumentKind
    value: str | float


@dataclass(frozen=True)
class PlannedLaunch:
    """One launch of one kernel."""

    kernel: str
    grid: Size3
    arguments: tuple[Argument, ...]


@dataclass(frozen=True)
class KernelPlan:
    """Launches in order, and the memory that they name."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    buffers: Mapping[str, Buffer]
    launches: tuple[PlannedLaunch, ...]

    @property
    def numbers(self) -> dict[str, float]:
        """The thresholds and the like: parameters of kind float32, by name."""
        every = (argument for launch in self.launches for argument in launch.arguments)
        return {each.name: float(each.value) for each in every if each.kind == "float32"}


@dataclass(frozen=True)
class KernelFolder:
    """What `kernels.json` says."""

    folder: Path
    target: str
    kernels: Mapping[str, Kernel]
    plans: Mapping[str, KernelPlan]

    def plan(self, name: str) -> KernelPlan:
        """The plan of that name.

        Raises:
            UsageError: there is none.
        """
        check_names("plan", [name], self.plans)
        return self.plans[name]

    def check_fit(self, compute_capability: str, fix: str, *, plans: Iterable[str] = ()) -> None:
        """Raise ArtifactError unless every kernel has a file for a device like that.

        Args:
            fix: what the user is told to do.
            plans: names of the plans that there must be.
        """
        for name in plans:
            if name not in self.plans:
                what = f"the kernels have no plan {name!r}"
                raise ArtifactError(what, where=self.folder, fix=fix)
        for kernel in self.kernels.values():
            if not any(variant.fits(compute_capability) for variant in kernel.variants):
                made_for = " or ".join(sorted({str(variant) for variant in kernel.variants}))
                what = f"the kernels are for compute capability {made_for}"
                what += f", but this GPU has {compute_capability}"
                raise ArtifactError(what, where=self.folder, fix=fix)


def read_kernels(folder: str | Path, *, fix: str = HOW_TO_BUILD) -> KernelFolder:
    """Read `kernels.json` and check every file that it names.

    Args:
        fix: what the user is told to do if the folder is of no use.

    Raises:
        UsageError: there is no such folder.
        ArtifactError: it is no folder of kernels, or a file is missing or not what it was.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError("folder of kernels not found", where=folder, fix="check the path")
    path = folder / KERNELS_FILE
    if not path.is_file():
        raise ArtifactError("this is no folder of kernels", where=folder, fix=fix)
    values = read_json(path, "kernel folder's description", ArtifactError)
    if values.get("format") != FORMAT:
        what = f"the kernels have format {values.get('format')!r}, this version reads {FORMAT}"
        raise ArtifactError(what, where=path, fix=fix)
    with _damage_is_an_error(path, fix):
        content = _decode(folder, values)
    for variant in (each for kernel in content.kernels.values() for each in kernel.variants):
        file = folder / variant.file
        if not file.is_file():
            raise ArtifactError("file is missing", where=file, fix=fix)
        if sha256_of(file) != variant.sha256:
            what = "SHA-256 differs: the file is not the one that was built"
            raise ArtifactError(what, where=file, fix=fix)
    return content


@contextmanager
def _damage_is_an_error(path: Path, fix: str) -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        raise ArtifactError(f"{error} is missing", where=path, fix=fix) from None
    except (ValueError, TypeError, AttributeError) as error:
        raise ArtifactError(f"damaged ({error})", where=path, fix=fix) from None


def _decode(folder: Path, values: dict[str, Any]) -> KernelFolder:
    kernels = {
        name: Kernel(
            str(each["entry"]),
            dict(each["constants"]),
            tuple(_variant(v) for v in each["variants"]),
        )
        for name, each in values["kernels"].items()
    }
    plans = {name: _plan(each, kernels) for name, each in values["plans"].items()}
    return KernelFolder(folder, str(values["target"]), kernels, plans)


def _plan(values: dict[str, Any], kernels: Mapping[str, Kernel]) -> KernelPlan:
    buffers = {
        name: Buffer(_sizes(each["shape"]), np.dtype(each["dtype"]).name, bool(each["zeroed"]))
        for name, each in values["buffers"].items()
    }
    launches = tuple(_launch(each, kernels, buffers) for each in values["launches"])
    inputs, outputs = tuple(values["inputs"]), tuple(values["outputs"])
    for name in (*inputs, *outputs):
        if name not in buffers:
            raise ValueError(f"no buffer {name!r}")
    return KernelPlan(inputs, outputs, buffers, launches)


def _variant(values: dict[str, Any]) -> Variant:
    file = str(values["file"])
    if Path(file).name != file:
        raise ValueError(f"{file!r} is no plain file name")
    return Variant(
        file,
        str(values["sha256"]),
        _version(str(values["compute_capability"])),
        bool(values["newer_too"]),
        _three(values["block"]),
        int(values["shared_bytes"]),
    )


def _launch(
    values: dict[str, Any], kernels: Mapping[str, Kernel], buffers: Mapping[str, Buffer]
) -> PlannedLaunch:
    if values["kernel"] not in kernels:
        raise ValueError(f"no kernel {values['kernel']!r}")
    arguments = []
    for each in values["arguments"]:
        kind = each["kind"]
        if kind not in KINDS:
            raise ValueError(f"unknown kind {kind!r}")
        value = each["buffer" if kind == "pointer" else "value"]
        if kind == "pointer" and value not in buffers:
            raise ValueError(f"no buffer {value!r}")
        if kind != "pointer" and not isinstance(value, (int, float)):
            raise ValueError(f"{each['name']} is {value!r}")
        arguments.append(Argument(str(each["name"]), kind, value))
    return PlannedLaunch(values["kernel"], _three(values["grid"]), tuple(arguments))


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor)


def _sizes(values: Any) -> tuple[int, ...]:
    sizes = tuple(values)
    if not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError(f"{values!r} are no sizes")
    return sizes


def _three(values: Any) -> Size3:
    x, y, z = _sizes(values)
    return x, y, z


def check_names(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise UsageError unless every given name is known; the message has the nearest one."""
    for name in given:
        if name not in known:
            raise UsageError(f"the kernels have no {what} {name!r}", fix=did_you_mean(name, known))

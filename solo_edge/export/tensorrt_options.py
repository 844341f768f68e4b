"""How TensorRT shall build a plan, and the same for trtexec. Needs nothing but the standard library."""

from __future__ import annotations

import os
import shlex
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from solo_edge.errors import UsageError, did_you_mean

__all__ = ["HardwareCompatibility", "TensorRTOptions", "Verbosity", "trtexec_command"]

HardwareCompatibility = Literal["none", "ampere_plus", "same_compute_capability"]
Verbosity = Literal["none", "layer_names_only", "detailed"]

_TRTEXEC_HARDWARE: dict[HardwareCompatibility, str] = {
    "ampere_plus": "ampere+",
    "same_compute_capability": "sameComputeCapability",
}


@dataclass(frozen=True)
class TensorRTOptions:
    """Options of TensorRT's builder. Precision is none of them: it lies in the ONNX file.

    Raises:
        UsageError: a value out of range, or two options that exclude each other.
    """

    workspace_mib: int = 1024  # scratch memory of a layer beside its inputs and outputs
    optimization_level: int = 3  # 0 (quick build) to 5 (tries everything)
    timing_cache: bool = (
        True  # False: measure everything anew, and take no plan of an earlier build
    )
    cache_folder: str = "auto"  # "auto": $XDG_CACHE_HOME/solo-edge or ~/.cache/solo-edge
    tf32: bool = False  # lets float32 products round their inputs to 10 bits
    sparsity: bool = False  # faster kernels for weights pruned 2:4
    aux_streams: int = -1  # most extra CUDA streams inside the engine; -1: TensorRT decides
    hardware_compatible: HardwareCompatibility = "none"  # GPUs beside the one that builds
    version_compatible: bool = False  # later versions of TensorRT can load the plan
    strip_weights: bool = False  # a plan without weights; they are refitted before it runs
    refit: bool = False  # all weights can be replaced in the plan
    dla_core: int = -1  # experimental: deep learning accelerator to run on; -1: none
    plugins: bool = False  # graph full: our kernels in the plan, from TensorRT 10.9 on
    profiling_verbosity: Verbosity = "layer_names_only"  # what the plan says of its layers

    def __post_init__(self) -> None:
        def require(ok: bool, name: str, rule: str) -> None:
            if not ok:
                what = f"{name} is {getattr(self, name)!r}"
                raise UsageError(what, where="TensorRT options", fix=rule)

        require(self.workspace_mib >= 1, "workspace_mib", "it must be at least 1")
        levels = 0 <= self.optimization_level <= 5
        require(levels, "optimization_level", "it must be 0 to 5")
        require(self.aux_streams >= -1, "aux_streams", "it must be -1 (automatic), 0 or more")
        require(self.dla_core >= -1, "dla_core", "it must be -1 (none), 0 or more")
        require(bool(self.cache_folder), "cache_folder", "give a folder, or auto")
        for name in ("hardware_compatible", "profiling_verbosity"):
            known = typing.get_args(typing.get_type_hints(type(self))[name])
            value = getattr(self, name)
            require(value in known, name, did_you_mean(str(value), known))

    def require_runnable(self) -> None:
        """Refuse what makes a plan that `solo_edge.runtime` does not run as it is.

        Raises:
            UsageError: the plan would have no weights, bring code for the host, or need another DLA core.
        """
        reasons = {
            "strip_weights": (self.strip_weights, "the plan would have no weights to run with"),
            "version_compatible": (self.version_compatible, "engines run no code out of a plan"),
            "dla_core": (self.dla_core > 0, "engines run on DLA core 0"),
        }
        for name, (given, reason) in reasons.items():
            if given:
                what = f"{name} is for plans, not for engines: {reason}"
                fix = "leave it out, or use solo_edge.export.tensorrt_builder.build_plan"
                raise UsageError(what, where="TensorRT options", fix=fix)

    @property
    def workspace_bytes(self) -> int:
        return self.workspace_mib << 20

    @property
    def cache_path(self) -> Path:
        """The folder of timing caches and plans; it need not exist."""
        if self.cache_folder != "auto":
            return Path(self.cache_folder).expanduser()
        # The XDG base directory specification has relative paths ignored.
        configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
        base = configured if configured.is_absolute() else Path.home() / ".cache"
        return base / "solo-edge"


def trtexec_command(
    options: TensorRTOptions,
    onnx_path: str | Path,
    plan_path: str | Path,
    timing_cache: str | Path | None = None,
) -> str:
    """The command line of trtexec, 10.3 to 11.4, that builds the same plan; ready for a shell.

    Args:
        timing_cache: file that trtexec reads and extends, as ours does.
    """
    flags = [
        f"--onnx={onnx_path}",
        f"--saveEngine={plan_path}",
        "--skipInference",
        "--stronglyTyped",  # the only way in TensorRT 11, which takes and ignores the flag
        f"--memPoolSize=workspace:{options.workspace_mib}M",
        f"--builderOptimizationLevel={options.optimization_level}",
        f"--profilingVerbosity={options.profiling_verbosity}",
    ]
    if not options.timing_cache:
        flags.append("--noBuilderCache")
    elif timing_cache is not None:
        flags.append(f"--timingCacheFile={timing_cache}")
    if options.aux_streams >= 0:
        flags.append(f"--maxAuxStreams={options.aux_streams}")
    if options.hardware_compatible != "none":
        level = _TRTEXEC_HARDWARE[options.hardware_compatible]
        flags.append(f"--hardwareCompatibilityLevel={level}")
    if options.dla_core >= 0:
        flags += [f"--useDLACore={options.dla_core}", "--allowGPUFallback"]
    switches = {
        "--noTF32": not options.tf32,
        "--sparsity=enable": options.sparsity,
        "--versionCompatible": options.version_compatible,
        "--stripWeights": options.strip_weights,
        "--refit": options.refit,
    }
    flags += [flag for flag, given in switches.items() if given]
    return shlex.join(["trtexec", *flags])

"""ONNX Runtime on the CPU: the parity oracle, and the fallback where OpenVINO is absent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from solo_edge.errors import ArtifactError, ResourceError
from solo_edge.manifest import REBUILD, TensorSpec
from solo_edge.runtime.base import Runner

__all__ = ["OnnxRunner"]

_DTYPES = {"tensor(float)": "float32", "tensor(int64)": "int64"}


class OnnxRunner(Runner):
    """An ONNX file on ONNX Runtime's CPU provider, in float32.

    Args:
        path: the ONNX file.
        threads: CPU threads; None is one for each core.

    The environment variable OMP_WAIT_POLICY=PASSIVE, which OpenMP programs obey, also keeps these
    threads from spinning between two operators: slower alone, much better beside other work.

    Raises:
        ResourceError: ONNX Runtime is not installed.
        ArtifactError: it cannot load the file.
    """

    def __init__(self, path: Path, *, threads: int | None = None):
        try:
            import onnxruntime
        except ImportError as error:
            fix = "pip install onnxruntime"
            raise ResourceError("this engine needs ONNX Runtime", where=path, fix=fix) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3  # errors; they also come as exceptions
        if os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE":
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            # From memory, so that the file cannot point to data outside it.
            self._session = onnxruntime.InferenceSession(
                path.read_bytes(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime has no common class for its errors
            what = f"ONNX Runtime cannot load this file ({error})"
            raise ArtifactError(what, where=path, fix=REBUILD) from error
        self.inputs = tuple(map(_spec, self._session.get_inputs()))
        self.outputs = tuple(map(_spec, self._session.get_outputs()))
        self.lasting = True  # every run makes new arrays
        self._names = [spec.name for spec in self.outputs]

    def _infer(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return dict(zip(self._names, self._session.run(self._names, inputs), strict=True))

    def close(self) -> None:
        self.__dict__.pop("_session", None)


def _spec(argument: Any) -> TensorSpec:
    # A symbolic size comes as a text; -1 makes the comparison with the manifest fail.
    shape = tuple(size if isinstance(size, int) else -1 for size in argument.shape)
    dtype: Any = _DTYPES.get(argument.type, argument.type)
    return TensorSpec(argument.name, dtype, shape)

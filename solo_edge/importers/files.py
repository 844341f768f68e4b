"""Foreign checkpoint files: PyTorch's `.pth` and PaddleDetection's `.pdparams`. No file can run code."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from solo_edge.errors import ArtifactError, ResourceError, UsageError
from solo_edge.importers.array_pickle import read_array_pickle

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ForeignFile", "is_pickled", "read_foreign"]

ZIP = b"PK\x03\x04"
# What torch.save wrote before 1.6 and mmdetection still publishes: the number 0x1950a86a20f9469cfc6c.
LEGACY = bytes.fromhex("6cfc9c46f9206aa85019")
WRAPPERS = ("state_dict", "model")  # mmdetection and the authors; detectron2
# mmengine leaves a second, raw set of weights beside the averaged ones in `state_dict`.
RAW_WEIGHTS = "ema_state_dict"
# Objects in the notes that training leaves beside the weights, mmengine's above all. They become empty
# placeholders, so that nothing of NumPy or Python runs either.
NOTES = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",
    *("numpy.ndarray", "numpy.dtype"),
    *(
        f"numpy.{core}.multiarray.{name}"
        for core in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    ),
)


@dataclass(frozen=True)
class ForeignFile:
    """What a checkpoint file holds."""

    tensors: dict[str, Tensor]
    left_out: tuple[str, ...]  # entries beside the weights: optimizer, epoch and the like
    class_names: tuple[str, ...] | None = None  # where the file tells them


class Placeholder:
    """Stands for an object that is not needed. It takes whatever it is given and keeps nothing."""

    def __new__(cls, *_: object, **__: object) -> Placeholder:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...

    def __hash__(self) -> int:
        return id(self)


def is_pickled(path: Path) -> bool:
    """Whether it is a file of PyTorch or Paddle; the first bytes tell, not the name."""
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except FileNotFoundError:
        raise UsageError("checkpoint not found", where=path, fix="check the path") from None
    return head == ZIP or (len(head) > 1 and head[0] == 0x80 and 2 <= head[1] <= 5)


def read_foreign(path: Path) -> ForeignFile:
    """Read a `.pth` or `.pdparams` file.

    Raises:
        ArtifactError: damaged, no weights in it, or with something in it that is refused.
        ResourceError: this PyTorch reads such files unsafely.
    """
    with path.open("rb") as file:
        head = file.read(32)
    if not head.startswith(ZIP) and LEGACY not in head:
        import torch

        arrays = read_array_pickle(path)
        # A copy: the arrays are views of the file's bytes, which are read-only.
        return ForeignFile({key: torch.from_numpy(a.copy()) for key, a in arrays.items()}, ())
    if head.startswith(ZIP):
        _require_plain_zip(path)
    return _unwrap(_load(path), path)


def _require_plain_zip(path: Path) -> None:
    """PyTorch stores without compression; anything else may unfold without end."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        fix = "download or copy it again"
        raise ArtifactError(f"damaged archive ({error})", where=path, fix=fix) from None
    packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if packed or sum(entry.file_size for entry in entries) > path.stat().st_size:
        fix = "give a file that torch.save wrote"
        raise ArtifactError(
            "a compressed archive, which torch.save never writes", where=path, fix=fix
        )


def _load(path: Path) -> object:
    import torch

    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < (2, 6):
        what = f"PyTorch {torch.__version__} can be made to run code by such files (CVE-2025-32434)"
        raise ResourceError(what, where=path, fix="pip install 'torch>=2.6'")
    try:
        with torch.serialization.safe_globals([(Placeholder, name) for name in NOTES]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # its reader raises whatever a damaged file leads it into
        # PyTorch's own advice, to load without the restriction, is not passed on.
        if named := re.search(r"unsupported global:? (?:GLOBAL )?(\S+)", str(error), re.IGNORECASE):
            fix = "only tensors and plain values are read; nothing in the file was executed"
            raise ArtifactError(f"refused: it names {named[1]!r}", where=path, fix=fix) from None
        detail = str(error).partition("WeightsUnpickler error: ")[2] or str(error)
        detail = next(iter(detail.splitlines()), type(error).__name__)[:200]
        fix = "give a checkpoint that torch.save wrote; this one may be damaged"
        raise ArtifactError(f"PyTorch cannot read it ({detail})", where=path, fix=fix) from None


def _unwrap(content: object, path: Path) -> ForeignFile:
    """The state dict inside what a training wrote."""
    from torch import Tensor

    fix = "give a file with a state dict"
    if not isinstance(content, Mapping):
        raise ArtifactError(f"it holds a {type(content).__name__}, no weights", where=path, fix=fix)
    wrapper = next((k for k in WRAPPERS if isinstance(content.get(k), Mapping)), None)
    state = content if wrapper is None else content[wrapper]
    beside = {} if wrapper is None else {k: v for k, v in content.items() if k != wrapper}
    for key, value in beside.items():
        values = value.values() if isinstance(value, Mapping) else ()
        if key != RAW_WEIGHTS and any(isinstance(item, Tensor) for item in values):
            what = f"it holds weights in {wrapper!r} and in {key!r}"
            raise ArtifactError(what, where=path, fix="save the one you mean alone")
    wrong = [
        str(k) for k, v in state.items() if not isinstance(k, str) or not isinstance(v, Tensor)
    ]
    if wrong or not state:
        what = f"its state dict has entries that are no tensors ({', '.join(wrong[:3])})"
        raise ArtifactError(what if wrong else "its state dict is empty", where=path, fix=fix)
    tensors = dict(state)
    if all(key.startswith("module.") for key in tensors):  # of a model in DistributedDataParallel
        tensors = {key.removeprefix("module."): tensor for key, tensor in tensors.items()}
    return ForeignFile(tensors, tuple(map(str, beside)), _class_names(beside.get("meta")))


def _class_names(meta: object) -> tuple[str, ...] | None:
    """The class names that mmdetection notes: `CLASSES` in 2.x, `dataset_meta.classes` in 3.x."""
    if not isinstance(meta, Mapping):
        return None
    dataset: Any = meta.get("dataset_meta")
    dataset = dataset if isinstance(dataset, Mapping) else {}
    names = meta.get("CLASSES") or dataset.get("classes") or dataset.get("CLASSES")
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names)

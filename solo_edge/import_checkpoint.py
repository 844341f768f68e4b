"""`solo-edge import-checkpoint`: a foreign checkpoint file becomes one of ours."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from solo_edge.checkpoint import METADATA_KEY, PICKLES, Checkpoint, read_tensors, save_checkpoint
from solo_edge.errors import ArtifactError, DataError, UsageError
from solo_edge.files import sha256_of
from solo_edge.importers.coco_classes import category_ids, default_names
from solo_edge.importers.convert import Choices, Imported, account_for, choose_layout, import_model
from solo_edge.importers.files import ForeignFile, is_pickled, read_foreign
from solo_edge.models.solov2 import SOLOv2

__all__ = ["describe_keys", "import_checkpoint", "parse_class_names"]


def import_checkpoint(
    path: Path,
    out: Path,
    choices: Choices | None = None,
    *,
    class_names: Sequence[str] | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Checkpoint:
    """Write the foreign checkpoint `path` as one of ours to `out`.

    Args:
        choices: what the file does not tell; see `Choices`.
        class_names: one for each class; by default the file's own, COCO's for 80 classes, or numbers.
        report: is told what was found, left out and assumed.

    Raises:
        UsageError: no such file, a wrong number of names, `out` is no `.safetensors`.
        ArtifactError: the file cannot be read or does not fit; see `solo_edge.importers.import_model`.
    """
    if out.suffix != ".safetensors":
        raise UsageError("a checkpoint is one .safetensors file", where=out, fix="name it so")
    file = _read(path)
    imported = import_model(file.tensors, str(path), choices)
    names = _class_names(imported.config.num_classes, class_names, file)
    model = SOLOv2(imported.config)
    # Strict would ask for the counters of the batch norms; the importer has checked all else.
    model.load_state_dict(imported.weights, strict=False)
    origin = {
        "imported_from": path.name,
        "layout": imported.layout.name,
        "sha256": sha256_of(path),
    }
    checkpoint = Checkpoint(model.eval(), names, category_ids(names), {}, origin)
    for line in _account(imported, file, names):
        report(line)
    save_checkpoint(out, checkpoint)
    return checkpoint


def describe_keys(path: Path, choices: Choices) -> Iterator[tuple[str, str]]:
    """Every key of a foreign checkpoint file and what would become of it.

    Raises:
        ArtifactError: after the last key, why `import_checkpoint` would refuse the file.
    """
    tensors = _read(path).tensors
    layout = choose_layout(tensors, str(path), choices.layout)
    account = account_for(tensors, layout, forced=choices.layout is not None)
    for key, tensor in tensors.items():
        if key in account.names:
            fate = f"-> {account.names[key]}"
        else:
            fate = f"left out: {account.ignored[key]}" if key in account.ignored else "unknown"
        yield f"{key} {list(tensor.shape)}", fate
    import_model(tensors, str(path), choices)


def parse_class_names(text: str) -> tuple[str, ...]:
    """Class names from a file (one on each line, or a JSON list) or from a list with commas.

    Raises:
        DataError: the file is no text, or its JSON no list of names.
    """
    path = Path(text)
    if "," in text or (not path.suffix and not path.exists()):
        names = tuple(name.strip() for name in text.split(","))
    else:
        names = _read_class_names(path)
    if not names or not all(names) or len(set(names)) != len(names):
        what = "class names are missing, empty or given twice"
        raise UsageError(what, where=text[:80], fix="give one for each class")
    return names


def _read_class_names(path: Path) -> tuple[str, ...]:
    try:
        content = path.read_text("utf-8-sig")
        listed = json.loads(content) if content.lstrip().startswith("[") else content.splitlines()
        return tuple(name.strip() for name in listed if name.strip())
    except FileNotFoundError:
        what = "file with class names not found"
        raise UsageError(what, where=path, fix="check the path") from None
    except (ValueError, AttributeError):
        fix = "write one name on each line, or a JSON list of names"
        raise DataError("no list of class names", where=path, fix=fix) from None


def _read(path: Path) -> ForeignFile:
    if is_pickled(path):
        return read_foreign(path)
    if path.suffix.lower() in PICKLES:
        fix = "download or copy it again; name it .safetensors if that is what it is"
        raise ArtifactError("neither of PyTorch nor of Paddle", where=path, fix=fix)
    tensors, metadata = read_tensors(path)
    if METADATA_KEY in metadata:
        raise UsageError("a checkpoint of ours already", where=path, fix="use it as it is")
    return ForeignFile(tensors, ())


def _class_names(count: int, given: Sequence[str] | None, file: ForeignFile) -> tuple[str, ...]:
    if given is not None:
        if len(given) != count:
            what = f"{len(given)} class names for a checkpoint of {count} classes"
            raise UsageError(what, fix="give one for each, in the order it was trained with")
        return tuple(given)
    if file.class_names is not None and len(file.class_names) == count:
        return file.class_names
    return default_names(count)


def _account(imported: Imported, file: ForeignFile, names: tuple[str, ...]) -> Iterator[str]:
    """What a person should know of the import, line by line."""
    config = imported.config
    deformable = ", DCNv2 in the last of both towers" if config.conv == "deformable" else ""
    yield (
        f"{imported.layout.title}: {config.backbone}, {config.num_classes} classes,"
        f" heads {config.head_depth} x {config.head_channels}{deformable},"
        f" kernels of {config.kernel_length}"
    )
    left_out = [f"{n} {what}" for what, n in Counter(imported.account.ignored.values()).items()]
    left_out += [f"the entry {name!r}" for name in file.left_out]
    yield f"{len(imported.weights)} weights; left out: {', '.join(left_out) or 'nothing'}"
    yield _preprocessing(imported)
    groups = f", norms of {config.norm_groups} groups" if config.norm == "group" else ""
    yield (
        f"not in the weights, so taken as: input {config.input_size[0]} x {config.input_size[1]},"
        f" grids {_numbers(config.grid_sizes)}{groups} (--preset or --set change them)"
    )
    yield f"classes: {', '.join(names[:4])}{' ...' if len(names) > 4 else ''} (--classes changes them)"


def _preprocessing(imported: Imported) -> str:
    config = imported.config
    order = "turned from BGR to RGB" if imported.channels == "bgr" else "RGB"
    stride = "; bottlenecks halve in their 1x1 convolution" if config.stride_in_1x1 else ""
    return f"{order}, mean {_numbers(config.pixel_mean)}, std {_numbers(config.pixel_std)}{stride}"


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)

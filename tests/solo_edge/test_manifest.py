"""Engine folders are described strictly, written whole and checked before anything is loaded."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solo_edge.config import PostprocessConfig, preset
from solo_edge.errors import ArtifactError, ResourceError, UsageError
from solo_edge.manifest import (
    MANIFEST,
    SCHEMA,
    Manifest,
    Measurement,
    Quantization,
    describe_tensors,
    engine_folder,
    grids_of,
    read_manifest,
    record_files,
    verify,
    write_manifest,
)
from solo_edge.preprocess import Preprocess


def make_manifest(**changes) -> Manifest:
    config = preset("solov2-nano-256", num_classes=2)
    thresholds = PostprocessConfig(score_threshold=0.2)
    inputs, outputs = describe_tensors(config, "network", thresholds)
    preprocess = Preprocess.from_config(config)
    values = {
        "schema": SCHEMA,
        "name": "scenes",
        "backend": "openvino",
        "precision": "fp32",
        "graph": "network",
        "class_names": ("cat", "dog"),
        "category_ids": (17, 18),
        "preprocess": preprocess,
        "preprocess_digest": preprocess.digest,
        "postprocess": thresholds,
        "model": config,
        "grids": grids_of(config),
        "inputs": inputs,
        "outputs": outputs,
        "versions": {"solo-edge": "0.1.0"},
        "machine": {"architecture": "x86_64", "cpu": "a processor"},
        "checkpoint_sha256": "ab" * 32,
        "measured": None,
        "files": {},
    }
    return Manifest(**{**values, **changes})


def write_engine(folder, content=b"weights" * 100, **changes):
    with engine_folder(folder) as temporary:
        (temporary / "model.onnx").write_bytes(content)
        manifest = make_manifest(**{"files": record_files(temporary), **changes})
        write_manifest(temporary, manifest)
    return manifest


@pytest.fixture
def engine(tmp_path):
    folder = tmp_path / "scenes.engine"
    write_engine(folder)
    return folder


def edit(folder, change):
    """Apply `change` to the manifest's JSON."""
    path = folder / MANIFEST
    values = json.loads(path.read_text())
    values = change(values) or values
    path.write_text(json.dumps(values))


def put(path, value):
    """A change of one field, given as "a.b.0"; `...` removes it."""

    def change(values):
        *way, last = path.split("/")
        for step in way:
            values = values[int(step) if isinstance(values, list) else step]
        last = int(last) if isinstance(values, list) else last
        if value is ...:
            del values[last]
        else:
            values[last] = value

    return change


def refusal(folder) -> str:
    with pytest.raises(ArtifactError) as caught:
        verify(folder, read_manifest(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_manifest_survives_writing_and_reading(tmp_path):
    folder = tmp_path / "a.engine"
    written = write_engine(folder, measured=Measurement("scenes", "val", 0.31, 40))
    read = read_manifest(folder)
    assert read == written
    assert verify(folder, read) == folder / "model.onnx"
    assert sorted(p.name for p in folder.iterdir()) == [MANIFEST, "model.onnx"]
    assert [p.name for p in tmp_path.iterdir()] == ["a.engine"]  # nothing temporary is left


def test_cell_strides_follow_the_levels():
    manifest = make_manifest()
    strides = manifest.cell_strides
    cells = [size * size for size in manifest.model.grid_sizes]
    assert strides.dtype == np.float32
    levels = zip((8, 8, 16, 32, 32), cells, strict=True)
    assert strides.tolist() == [stride for stride, count in levels for _ in range(count)]
    assert len(strides) == manifest.outputs[0].shape[2]


def test_full_graph_tensors():
    config = preset("solov2-nano-256")
    (image,), outputs = describe_tensors(
        config, "full", PostprocessConfig(max_instances=7), batch=2
    )
    assert image.shape == (2, 3, 256, 256)
    assert [(o.name, o.dtype, o.shape) for o in outputs] == [
        ("labels", "int64", (2, 7)),
        ("scores", "float32", (2, 7)),
        ("masks", "float32", (2, 7, 64, 64)),
        ("valid_count", "int64", (2,)),
    ]


# These came later; without them the manifest is that of a float engine for one image.
REQUIRED = [f.name for f in dataclasses.fields(Manifest) if f.name not in ("quantization", "batch")]


@pytest.mark.parametrize("field", REQUIRED)
def test_every_field_is_required(engine, field):
    edit(engine, put(field, ...))
    assert f"'{field}' is missing" in refusal(engine)


def test_how_int8_came_about_may_be_missing_and_comes_back_as_it_was(engine):
    manifest = read_manifest(engine)
    assert manifest.quantization is None
    found = Quantization("auto", 128, "0" * 64, ("model.a.weight",), 0.25, 0.5, 0.98)
    write_manifest(engine, dataclasses.replace(manifest, quantization=found))
    assert read_manifest(engine).quantization == found
    edit(engine, put("quantization", ...))
    assert read_manifest(engine).quantization is None


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("schema", "1", "'schema' must be a whole number"),
        ("schema", True, "'schema' must be a whole number"),
        ("name", 5, "'name' must be a text"),
        ("backend", "openvin", "'backend' is 'openvin' (did you mean 'openvino'?)"),
        ("backend", [], "'backend' is []"),
        ("precision", "int4", "'precision' is 'int4'"),
        ("graph", None, "'graph' is None"),
        ("class_names", "cat", "'class_names' must be a list"),
        ("class_names", ["cat"], "'class_names' must name 2 classes"),
        ("class_names/1", 7, "'class_names[1]' must be a text"),
        ("category_ids", [1, 1], "'category_ids' has an id twice"),
        ("category_ids", [1], "'category_ids' must have 2 entries"),
        ("category_ids/0", 1.0, "'category_ids[0]' must be a whole number"),
        ("category_ids/0", True, "'category_ids[0]' must be a whole number"),
        ("preprocess/pixel_mean", [1, 2], "'preprocess.pixel_mean' must have 3 entries"),
        (
            "preprocess/pixel_mean/0",
            float("nan"),
            "'preprocess.pixel_mean[0]' must be a finite number",
        ),
        ("preprocess/pixel_mean/0", 10**400, "'preprocess.pixel_mean[0]' must be a finite number"),
        ("preprocess/pixel_mean/0", 1.0, "'preprocess' contradicts the field 'model'"),
        ("preprocess/mean", 1.0, "'preprocess.mean' is unknown"),
        ("preprocess_digest", "0" * 16, "'preprocess_digest' must be"),
        ("postprocess/score_threshold", 1.5, "'postprocess' makes no sense"),
        ("postprocess/score_threshold", float("nan"), "must be a finite number"),
        ("postprocess/score_treshold", 0.1, "did you mean 'score_threshold'?"),
        ("model/input_size", [100, 100], "'model' makes no sense"),
        ("model/num_classes", "2", "'model.num_classes' must be a whole number"),
        ("model/num_classes", 3, "'class_names' must name 3 classes"),
        ("model/scale_ranges/0", [1], "'model.scale_ranges[0]' must have 2 entries"),
        ("model/norm", "instance", "'model.norm' is 'instance'"),
        ("grids/0/stride", 4, "'grids' contradicts"),
        ("inputs/0/shape", [1, 3, 64, 64], "'inputs' contradicts"),
        ("outputs/0/name", "scores", "'outputs' contradicts"),
        ("outputs/0/dtype", "float16", "'outputs[0].dtype' is 'float16'"),
        ("versions/torch", 2, "'versions.torch' must be a text"),
        ("machine", [], "'machine' must be an object"),
        ("checkpoint_sha256", "xyz", "'checkpoint_sha256' must be 64 hexadecimal digits"),
        ("measured", {"data": "a"}, "'measured.split' is missing"),
        ("files", {}, "'files' must list 'model.onnx'"),
        ("files/model.onnx/sha256", "A" * 64, "'files.model.onnx.sha256' must be 64"),
        ("files/model.onnx/size", -1, "'files.model.onnx.size' must be positive"),
        ("extra", 1, "'extra' is unknown"),
    ],
)
def test_a_wrong_field_is_named(engine, path, value, expected):
    edit(engine, put(path, value))
    assert expected in refusal(engine)


@pytest.mark.parametrize(
    "name",
    ["../model.onnx", "/etc/passwd", "a/b", "..", ".", ".hidden", "a\\b", "", "x" * 101, MANIFEST],
)
def test_file_names_stay_in_the_folder(engine, name):
    edit(engine, lambda v: v["files"].update({name: {"sha256": "0" * 64, "size": 1}}))
    assert "is not the name of a file in this folder" in refusal(engine)


def test_a_link_out_of_the_folder_is_refused(engine, tmp_path):
    model = engine / "model.onnx"
    model.rename(tmp_path / "elsewhere")
    model.symlink_to(tmp_path / "elsewhere")
    assert "missing" in refusal(engine)


@pytest.mark.parametrize(("schema", "fix"), [(SCHEMA + 1, "update solo-edge"), (0, "again")])
def test_another_schema_is_refused_whatever_else_it_holds(engine, schema, fix):
    (engine / MANIFEST).write_text(json.dumps({"schema": schema, "future": 1}))
    text = refusal(engine)
    assert f"schema {schema}" in text
    assert fix in text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"schema": 1',
        b"[" * 200_000,
        b'{"schema": ' + b"[" * 100_000,
        b" " * (5 << 20),
    ],
)
def test_what_is_no_manifest_is_refused(engine, content):
    (engine / MANIFEST).write_bytes(content)
    refusal(engine)


def test_every_flipped_bit_and_every_cut_is_found(engine):
    model, manifest = engine / "model.onnx", read_manifest(engine)
    whole = model.read_bytes()
    rng = random.Random(0)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        model.write_bytes(damaged)
        with pytest.raises(ArtifactError, match="SHA-256 differs"):
            verify(engine, manifest)
    for length in range(0, len(whole), 7):
        model.write_bytes(whole[:length])
        with pytest.raises(ArtifactError, match="bytes, the manifest says"):
            verify(engine, manifest)
    model.unlink()
    with pytest.raises(ArtifactError, match="missing"):
        verify(engine, manifest)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def whole_engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("manifest") / "scenes.engine"
    write_engine(folder)
    return folder, json.loads((folder / MANIFEST).read_text())


@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=st.data())
def test_no_value_anywhere_gets_past_as_another_error(whole_engine, data):
    """Whatever stands in whatever field: it is read, or refused as an artifact."""
    folder, values = whole_engine
    values = json.loads(json.dumps(values))
    spot = values
    while isinstance(spot, (dict, list)) and spot:
        keys = sorted(spot) if isinstance(spot, dict) else range(len(spot))
        key = data.draw(st.sampled_from(list(keys)))
        deeper = spot[key]
        if not isinstance(deeper, (dict, list)) or not deeper or data.draw(st.booleans()):
            spot[key] = data.draw(json_values)
            break
        spot = deeper
    (folder / MANIFEST).write_text(json.dumps(values))
    with contextlib.suppress(ArtifactError):
        read_manifest(folder)


def test_nothing_there_is_a_usage_error_and_something_else_an_artifact_error(tmp_path):
    with pytest.raises(UsageError, match="engine not found"):
        read_manifest(tmp_path / "none.engine")
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(ArtifactError, match="solo-edge build-engine"):
            read_manifest(path)


def test_an_engine_is_replaced_by_a_new_one(engine):
    write_engine(engine, content=b"other")
    assert (engine / "model.onnx").read_bytes() == b"other"
    assert verify(engine, read_manifest(engine))


def test_an_empty_folder_may_become_an_engine(tmp_path):
    (tmp_path / "a.engine").mkdir()
    write_engine(tmp_path / "a.engine")
    assert read_manifest(tmp_path / "a.engine")


def foreign_folder(path):
    path.mkdir()
    (path / "thesis.txt").write_text("mine")


def foreign_manifest(path):
    path.mkdir()
    (path / MANIFEST).write_text('{"name": "a web app"}')


def foreign_file(path):
    path.write_text("mine")


def link_to_folder(path):
    foreign_folder(path.parent / "target")
    path.symlink_to(path.parent / "target")


def engine_with_notes(path):
    write_engine(path)
    (path / "notes.txt").write_text("mine")


@pytest.mark.parametrize(
    "make", [foreign_folder, foreign_manifest, foreign_file, link_to_folder, engine_with_notes]
)
def test_what_is_no_engine_is_never_replaced(tmp_path, make):
    path = tmp_path / "out"
    make(path)
    before = {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")}
    with pytest.raises(UsageError), engine_folder(path):
        pytest.fail("the block must not run")
    assert {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")} == before


def test_a_failed_build_leaves_the_old_engine_and_nothing_else(engine):
    before = read_manifest(engine)

    def stop_half_way():
        with engine_folder(engine) as temporary:
            (temporary / "model.onnx").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_half_way()
    assert read_manifest(engine) == before
    assert verify(engine, before)
    assert [p.name for p in engine.parent.iterdir()] == ["scenes.engine"]


def test_a_manifest_that_could_not_be_read_is_not_written(tmp_path):
    with pytest.raises(ArtifactError, match="'files' must list"):
        write_manifest(tmp_path, make_manifest())
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_place_is_a_resource_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ResourceError), engine_folder(tmp_path / "file/a.engine"):
        pytest.fail("the block must not run")

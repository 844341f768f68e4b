"""Several images at once, and the two halves of a run."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from solo_edge.errors import ArtifactError, UsageError
from solo_edge.export.build import build_engine
from solo_edge.export.self_check import check_runner, make_image
from solo_edge.manifest import read_manifest
from solo_edge.runtime.engine import load_engine, open_predictor

SIZES = ((170, 256), (256, 100), (80, 90), (256, 256), (300, 200))


@pytest.fixture(scope="module")
def images():
    return [make_image(size, seed) for seed, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def alone(lively_checkpoint, images):
    """What is found in each image by itself, with the checkpoint."""
    with open_predictor(lively_checkpoint) as engine:
        return [engine(image) for image in images]


@pytest.fixture(scope="module")
def batched(lively_checkpoint, tmp_path_factory):
    """batched(backend, graph) -> engine folder for three images at once."""
    folder = tmp_path_factory.mktemp("batched")

    def build(backend, graph="network"):
        pytest.importorskip(backend)
        path = folder / f"{backend}-{graph}.engine"
        if not path.exists():
            build_engine(lively_checkpoint, path, backend=backend, graph=graph, batch=3)
        return path

    return build


def check_same(found, expected):
    count = min(len(found), len(expected), 10)
    assert count > 5
    assert abs(len(found) - len(expected)) <= 2
    np.testing.assert_allclose(found.scores[:count], expected.scores[:count], atol=0.01)
    np.testing.assert_array_equal(found.labels[:3], expected.labels[:3])
    for here, there in zip(found.select(slice(3)).masks, expected.masks, strict=False):
        assert (here & there).sum() > 0.95 * (here | there).sum()


@pytest.mark.parametrize(
    ("backend", "graph"),
    [("openvino", "network"), ("onnxruntime", "full"), ("torch", "network"), ("torch", "full")],
)
def test_a_batch_finds_what_is_found_in_each_image_alone(batched, images, alone, backend, graph):
    path = batched(backend, graph)
    assert read_manifest(path).batch == 3
    with load_engine(path, threads=1) as engine:
        assert engine.batch_size == 3
        results = engine.finish(engine.start(images[:3]))
        assert len(results) == 3
        for (found, times), expected, image in zip(results, alone, images, strict=False):
            check_same(found, expected)
            assert found.image_size == image.shape[:2]
            assert min(times) > 0
        # Fewer images than places, and one.
        (first, _), (second, _) = engine.finish(engine.start([images[3], images[1]]))
        check_same(first, alone[3])
        check_same(second, alone[1])
        check_same(engine(images[2]), alone[2])
        # Five images are two batches.
        for (found, _), expected in zip(engine.run_all(iter(images)), alone, strict=True):
            check_same(found, expected)


def test_a_batch_has_the_engines_size_at_most(batched, images, lively_checkpoint):
    with open_predictor(lively_checkpoint) as engine:
        assert engine.batch_size == 1
        with pytest.raises(ValueError, match="takes 1 to 1 images, got 2"):
            engine.start(images[:2])
    with load_engine(batched("torch")) as engine:
        for wrong in ([], images[:4]):
            with pytest.raises(ValueError, match="takes 1 to 3 images"):
                engine.start(wrong)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime", "torch"])
def test_one_thread_finishes_while_another_starts_the_next(batched, images, alone, backend):
    with load_engine(batched(backend), threads=1) as engine:
        started = engine.start(images[:3])
        found = []
        thread = threading.Thread(target=lambda: found.extend(engine.finish(started)))
        thread.start()
        after = engine.start([images[4], images[4], images[4]])
        thread.join()
        for (instances, _), expected in zip(found, alone, strict=False):
            check_same(instances, expected)
        for instances, _ in engine.finish(after):
            check_same(instances, alone[4])


def test_what_was_started_outlives_the_next_start(batched, images, alone):
    for backend in ("openvino", "onnxruntime", "torch"):
        with load_engine(batched(backend), threads=1) as engine:
            first, second = engine.start(images[:1]), engine.start(images[1:2])
            check_same(engine.finish(first)[0][0], alone[0])
            check_same(engine.finish(second)[0][0], alone[1])


def test_outputs_that_the_next_run_overwrites_are_copied(lively_checkpoint, images, alone):
    with open_predictor(lively_checkpoint) as engine:
        memory: dict[str, np.ndarray] = {}
        compute = engine.runner.infer

        def overwrite(inputs):
            for name, values in compute(inputs).items():
                np.copyto(memory.setdefault(name, np.empty_like(values)), values)
            return dict(memory)

        engine.runner.infer = overwrite
        engine.runner.lasting = False
        first, second = engine.start(images[:1]), engine.start(images[1:2])
        check_same(engine.finish(first)[0][0], alone[0])
        check_same(engine.finish(second)[0][0], alone[1])


def test_the_self_check_sees_a_batch_whose_last_image_is_the_first_again(batched, lively_model):
    with load_engine(batched("onnxruntime", "full")) as engine:
        compute = engine.runner.infer

        def repeat(inputs):
            return {name: np.concatenate([v[:1]] * len(v)) for name, v in compute(inputs).items()}

        engine.runner.infer = repeat
        with pytest.raises(ArtifactError, match="disagrees"):
            check_runner(engine.runner, lively_model, "fp32", engine.postprocess_config, "x.engine")


@pytest.mark.parametrize("batch", [0, -1, 65])
def test_an_impossible_batch_is_refused(lively_checkpoint, tmp_path, batch):
    with pytest.raises(UsageError, match="from 1 to 64"):
        build_engine(lively_checkpoint, tmp_path / "x.engine", batch=batch)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_int8_comes_in_batches_too(scenes, ranges, tmp_path):
    import solo_edge
    from solo_edge.images import read_image

    pytest.importorskip("openvino")
    model = solo_edge.__path__[0] + "/assets/solov2-nano-256-scenes.safetensors"
    pictures = [read_image(path) for path in sorted((scenes / "val").glob("*.*"))[:2]]
    found = []
    for batch in (1, 2):
        path = tmp_path / f"{batch}.engine"
        options = {"precision": "int8", "ranges": ranges, "batch": batch}
        build_engine(model, path, backend="openvino", **options)
        with load_engine(path, threads=1) as engine:
            found.append([instances for instances, _ in engine.run_all(pictures)])
    for one, other in zip(*found, strict=True):
        assert len(one) == len(other) > 0
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)

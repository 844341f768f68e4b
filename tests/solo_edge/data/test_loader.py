"""Batches: the same whatever the workers or processes, and what is said when a worker is lost or hangs."""

from __future__ import annotations

import dataclasses
import os
import time

import numpy as np
import pytest
import torch

from solo_edge.config import TrainConfig, preset
from solo_edge.data.coco import open_dataset
from solo_edge.data.loader import TrainingLoader
from solo_edge.data.synthetic import make_dataset
from solo_edge.errors import ResourceError

SIZE = (64, 64)
CONFIG = TrainConfig(batch_size=3, workers=0, epochs=5, close_mosaic=1)
MIXED = dataclasses.replace(CONFIG, mosaic=0.5, copy_paste=0.5, repeat_threshold=0.9)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "scenes"
    make_dataset(out, images=7, seed=3, size=SIZE, val_images=1, workers=1)
    return open_dataset(out, "train")


@pytest.fixture(scope="module")
def model(dataset):
    return preset("solov2-nano-256", input_size=SIZE, num_classes=len(dataset.class_names))


def equal(a, b):
    same = a.image_ids == b.image_ids and torch.equal(a.images, b.images)
    pairs = zip(a.targets, b.targets, strict=True)
    return same and all(np.array_equal(x.masks, y.masks) for x, y in pairs)


@pytest.mark.parametrize("config", [CONFIG, MIXED], ids=["plain", "mixed"])
def test_workers_do_not_change_the_samples(dataset, model, config):
    seen = []
    for workers in (0, 2):
        own = dataclasses.replace(config, workers=workers)
        loader = TrainingLoader(dataset, model, own)
        seen.append(list(loader.epoch(3)))
        assert len(seen[-1]) == len(loader)
    assert all(equal(a, b) for a, b in zip(*seen, strict=True))


@pytest.mark.parametrize("config", [CONFIG, MIXED], ids=["plain", "mixed"])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_can_begin_anywhere(dataset, model, config, workers):
    loader = TrainingLoader(dataset, model, dataclasses.replace(config, workers=workers))
    whole = list(loader.epoch(2))
    rest = list(loader.epoch(2, first=1))
    assert len(rest) == len(whole) - 1
    assert all(equal(a, b) for a, b in zip(whole[1:], rest, strict=True))
    cut = loader.epoch(2)
    next(cut)  # left in the middle, with batches already on their way
    again = list(loader.epoch(2))
    assert all(equal(a, b) for a, b in zip(whole, again, strict=True))


def test_processes_share_each_batch(dataset, model):
    whole = list(TrainingLoader(dataset, model, CONFIG).epoch(1))
    shares = [
        list(TrainingLoader(dataset, model, CONFIG, rank=rank, world_size=2).epoch(1))
        for rank in (0, 1)
    ]
    assert [len(batch) for batch in whole] == [3, 3, 1]
    assert [len(batch) for batch in shares[1]] == [1, 1, 0]
    assert shares[1][2].images.shape == (0, 3, *SIZE)
    for all_of_it, first, second in zip(whole, *shares, strict=True):
        assert all_of_it.image_ids[::2] == first.image_ids
        assert all_of_it.image_ids[1::2] == second.image_ids
        assert torch.equal(all_of_it.images[::2], first.images)


def test_parts_are_the_batch(dataset, model):
    batch = next(TrainingLoader(dataset, model, CONFIG).epoch(0))
    parts = list(batch.parts(2))
    assert [len(part) for part in parts] == [2, 1]
    assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
    assert [i for part in parts for i in part.image_ids] == batch.image_ids
    assert parts[1].targets[0] is batch.targets[2]


class Troubled:
    """A data set in which reading one image does something else."""

    def __init__(self, dataset, index, trouble):
        self.dataset, self.index, self.trouble = dataset, index, trouble
        self.image_ids = dataset.image_ids
        self.ground_truth = dataset.ground_truth

    def __len__(self):
        return len(self.dataset)

    def image(self, index):
        if index == self.index:
            self.trouble()
        return self.dataset.image(index)


def test_a_lost_worker_is_one_line_with_its_image(dataset, model):
    """Ended from outside, as the system does when memory is short."""
    source = Troubled(dataset, 4, lambda: os._exit(9))
    loader = TrainingLoader(source, model, dataclasses.replace(CONFIG, workers=1))
    with pytest.raises(
        ResourceError, match=f"images in work: {dataset.image_ids[4]}; .*--workers 0"
    ):
        list(loader.epoch(0))


def test_a_hanging_worker_is_named_with_its_image(dataset, model):
    source = Troubled(dataset, 4, lambda: time.sleep(1000))
    config = dataclasses.replace(CONFIG, workers=2, loader_timeout=1)
    loader = TrainingLoader(source, model, config)
    named = f"image {dataset.image_ids[4]} for more than 1 s; .*--loader-timeout"
    with pytest.raises(ResourceError, match=named):
        list(loader.epoch(0))


@pytest.mark.slow
def test_a_slow_batch_is_no_hanging_worker(dataset, model):
    """Each of its samples goes on, though all together take longer than is allowed for one."""
    source = Troubled(dataset, 4, lambda: None)
    source.ground_truth = lambda index: time.sleep(0.5) or dataset.ground_truth(index)
    config = dataclasses.replace(CONFIG, workers=1, loader_timeout=2, batch_size=6)
    assert len(list(TrainingLoader(source, model, config).epoch(0))) == 2

"""Batches for training: augmented samples and their targets, made by worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from solo_edge.config import ModelConfig, TrainConfig
from solo_edge.data.augment import training_sample
from solo_edge.data.masks import GroundTruth
from solo_edge.preprocess import Preprocess
from solo_edge.targets import Targets, assign_targets

__all__ = ["Batch", "TrainingData", "training_loader"]


class ImageSource(Protocol):
    """What training reads: a `CocoDataset`, cached or not."""

    image_ids: list[int]

    def __len__(self) -> int: ...
    def image(self, index: int) -> NDArray[np.uint8]: ...
    def ground_truth(self, index: int) -> GroundTruth: ...


@dataclass(frozen=True)
class Batch:
    images: Tensor  # [B, 3, H, W] float32
    targets: list[Targets]
    image_ids: list[int]


class TrainingData(Dataset[tuple[Tensor, Targets, int]]):
    """Sample (epoch, i). Its randomness comes from the seed, the epoch and i alone, whatever the workers."""

    def __init__(self, source: ImageSource, model: ModelConfig, train: TrainConfig):
        self.source = source
        self.model = model
        self.train = train
        self.preprocess = Preprocess.from_config(model)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Targets, int]:
        epoch, i = key
        rng = np.random.default_rng((self.train.seed, epoch, i))
        image_id = self.source.image_ids[i]
        sample = training_sample(
            self.source.image(i),
            self.source.ground_truth(i),
            self.preprocess,
            self.train,
            rng,
            image_id,
        )
        targets = assign_targets(sample.masks, sample.boxes, sample.labels, self.model)
        return torch.from_numpy(sample.image), targets, image_id


class EpochSampler(Sampler[tuple[int, int]]):
    """A new order in each epoch, given by the seed and the epoch. Set `epoch` before iterating."""

    def __init__(self, length: int, seed: int):
        self.length = length
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
        return ((self.epoch, int(i)) for i in order)


def training_loader(
    source: ImageSource, model: ModelConfig, train: TrainConfig
) -> tuple[DataLoader[Batch], EpochSampler]:
    """A loader of whole batches (the last, smaller one of an epoch is kept) and its sampler."""
    sampler = EpochSampler(len(source), train.seed)
    loader: DataLoader[Batch] = DataLoader(
        TrainingData(source, model, train),  # type: ignore[arg-type]  # collate makes it a Batch
        batch_size=train.batch_size,
        sampler=sampler,
        num_workers=train.workers,
        collate_fn=_collate,
        persistent_workers=train.workers > 0,
        worker_init_fn=_start_worker,
        timeout=120 if train.workers else 0,
    )
    return loader, sampler


def _collate(samples: list[tuple[Tensor, Targets, int]]) -> Batch:
    images, targets, image_ids = zip(*samples, strict=True)
    return Batch(torch.stack(images), list(targets), list(image_ids))


def _start_worker(_: int) -> None:
    import cv2

    cv2.setNumThreads(0)  # one process, one thread: the workers are the parallelism

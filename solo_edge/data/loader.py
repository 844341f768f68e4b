"""Batches for training: augmented samples and their targets, made by worker processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from solo_edge.config import ModelConfig, TrainConfig
from solo_edge.data.augment import training_sample
from solo_edge.data.masks import GroundTruth
from solo_edge.errors import ResourceError, SoloEdgeError
from solo_edge.preprocess import Preprocess
from solo_edge.targets import Targets, assign_targets

__all__ = ["Batch", "TrainingData", "TrainingLoader"]


class ImageSource(Protocol):
    """What training reads: a `CocoDataset`, cached or not."""

    @property
    def image_ids(self) -> Sequence[int]: ...
    def __len__(self) -> int: ...
    def image(self, index: int) -> NDArray[np.uint8]: ...
    def ground_truth(self, index: int) -> GroundTruth: ...


class Item(NamedTuple):
    image: Tensor  # [3, H, W] float32
    targets: Targets
    image_id: int


@dataclass(frozen=True)
class Batch:
    images: Tensor  # [B, 3, H, W] float32
    targets: list[Targets]
    image_ids: list[int]


class TrainingData(Dataset[Item | SoloEdgeError]):
    """Sample (epoch, i). Its randomness comes from the seed, the epoch and i alone, whatever the workers.

    A file that cannot be read gives its error as the item: raised in a worker, it would arrive as the text
    of a traceback.
    """

    def __init__(self, source: ImageSource, model: ModelConfig, train: TrainConfig):
        self.source = source
        self.model = model
        self.train = train
        self.preprocess = Preprocess.from_config(model)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, int]) -> Item | SoloEdgeError:
        epoch, i = key
        rng = np.random.default_rng((self.train.seed, epoch, i))
        image_id = self.source.image_ids[i]
        try:
            image, truth = self.source.image(i), self.source.ground_truth(i)
        except SoloEdgeError as error:
            return error
        sample = training_sample(image, truth, self.preprocess, self.train, rng, image_id)
        targets = assign_targets(sample.masks, sample.boxes, sample.labels, self.model)
        return Item(torch.from_numpy(sample.image), targets, image_id)


class EpochSampler(Sampler[tuple[int, int]]):
    """A new order in each epoch, given by the seed and the epoch."""

    def __init__(self, length: int, seed: int):
        self.length = length
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
        return ((self.epoch, int(i)) for i in order)


class TrainingLoader:
    """Batches of an epoch, made by worker processes; the last, smaller one is kept."""

    def __init__(self, source: ImageSource, model: ModelConfig, train: TrainConfig):
        self._sampler = EpochSampler(len(source), train.seed)
        self._loader: DataLoader[Batch | SoloEdgeError] = DataLoader(
            TrainingData(source, model, train),  # type: ignore[arg-type]  # collate makes it a Batch
            batch_size=train.batch_size,
            sampler=self._sampler,
            num_workers=train.workers,
            collate_fn=_collate,
            persistent_workers=train.workers > 0,
            worker_init_fn=_start_worker,
            timeout=120 if train.workers else 0,
        )

    def __len__(self) -> int:
        return len(self._loader)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of `epoch`.

        Raises:
            DataError: an image of the batch cannot be read.
            ResourceError: a worker died or hangs.
        """
        self._sampler.epoch = epoch
        try:
            for batch in self._loader:
                if isinstance(batch, SoloEdgeError):
                    raise batch
                yield batch
        except RuntimeError as error:
            # PyTorch has no class of its own for these.
            if not str(error).startswith(("DataLoader worker", "DataLoader timed out")):
                raise
            fix = "free some memory, or use --workers 0"
            raise ResourceError(
                f"a process that loads images was lost ({error})", fix=fix
            ) from error


def _collate(items: list[Item | SoloEdgeError]) -> Batch | SoloEdgeError:
    good = []
    for item in items:
        if isinstance(item, SoloEdgeError):
            return item
        good.append(item)
    images = torch.stack([item.image for item in good])
    return Batch(images, [item.targets for item in good], [item.image_id for item in good])


def _start_worker(_: int) -> None:
    import cv2

    cv2.setNumThreads(0)  # one process, one thread: the workers are the parallelism

"""Batches for training: augmented samples and their targets, made by worker processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from solo_edge.config import ModelConfig, TrainConfig
from solo_edge.data.samples import ImageSource, SampleMaker
from solo_edge.data.sampling import EpochBatches, SampleKey, labels_of_images, repeat_factors
from solo_edge.data.watch import WorkerWatch
from solo_edge.errors import ResourceError, SoloEdgeError
from solo_edge.targets import Targets, assign_targets

__all__ = ["Batch", "TrainingData", "TrainingLoader"]

POLL_S = 1.0  # how often a waiting loader looks after its workers


class Item(NamedTuple):
    image: Tensor  # [3, H, W] float32
    targets: Targets
    labels: NDArray[np.int64]  # [N] of each instance
    image_id: int


@dataclass(frozen=True)
class Batch:
    """The part of a batch that one process computes; it may be empty."""

    images: Tensor  # [B, 3, H, W] float32
    targets: list[Targets]
    labels: list[NDArray[np.int64]]  # B times [N], the class of each mask of the targets
    image_ids: list[int]

    def __len__(self) -> int:
        return len(self.image_ids)

    def parts(self, size: int) -> Iterator[Batch]:
        """The batch in pieces of at most `size` images."""
        for start in range(0, len(self), size):
            here = slice(start, start + size)
            fields = (self.images, self.targets, self.labels, self.image_ids)
            yield Batch(*(field[here] for field in fields))  # type: ignore[arg-type]

    def pin_memory(self) -> Batch:
        """Called by PyTorch's loader, so that the images go to a GPU while it computes."""
        return Batch(self.images.pin_memory(), self.targets, self.labels, self.image_ids)


class TrainingData(Dataset[Item | SoloEdgeError]):
    """Samples by their key.

    A file that cannot be read gives its error as the item: raised in a worker, it would arrive as the text
    of a traceback.
    """

    def __init__(self, source: ImageSource, model: ModelConfig, train: TrainConfig):
        self.source = source
        self.model = model
        self.watch = WorkerWatch(train.workers)
        self._sample = SampleMaker(source, model, train, self._begin)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: SampleKey) -> Item | SoloEdgeError:
        try:
            sample = self._sample(key)
            targets = assign_targets(sample.masks, sample.boxes, sample.labels, self.model)
            image = torch.from_numpy(sample.image)
            return Item(image, targets, sample.labels, sample.image_id)
        except SoloEdgeError as error:
            return error
        finally:
            if (worker := get_worker_info()) is not None:
                self.watch.end(worker.id)

    def _begin(self, index: int) -> None:
        if (worker := get_worker_info()) is not None:
            self.watch.begin(worker.id, index)


class TrainingLoader:
    """Batches of an epoch, made by worker processes; the last, smaller one is kept.

    Args:
        rank, world_size: which process of how many this is; each gets its share of every batch.
        pin_memory: for a CUDA device.
    """

    def __init__(
        self,
        source: ImageSource,
        model: ModelConfig,
        train: TrainConfig,
        *,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
    ):
        factors = None
        if train.repeat_threshold > 0:
            factors = repeat_factors(labels_of_images(source.coco_dict()), train.repeat_threshold)
        self.batches = EpochBatches(
            len(source),
            train.batch_size,
            train.seed,
            factors=factors,
            rank=rank,
            world_size=world_size,
        )
        self._data = TrainingData(source, model, train)
        self._empty = torch.empty(0, 3, *model.input_size)
        self._timeout = train.loader_timeout
        self._loader: DataLoader[Batch | SoloEdgeError] = DataLoader(
            self._data,  # type: ignore[arg-type]  # collate makes it a Batch
            batch_sampler=self.batches,
            num_workers=train.workers,
            collate_fn=self._collate,
            persistent_workers=train.workers > 0,
            worker_init_fn=_start_worker,
            pin_memory=pin_memory,
            timeout=POLL_S if train.workers else 0,
        )

    def __len__(self) -> int:
        """The number of batches of an epoch."""
        return -(-self.batches.samples // self.batches.batch_size)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of `epoch`, from batch `first` on.

        Raises:
            DataError: an image of the batch cannot be read.
            ResourceError: a worker died or hangs; the message names the image.
        """
        self.batches.epoch, self.batches.first = epoch, first
        batches = iter(self._loader)
        while (batch := self._next(batches)) is not None:
            if isinstance(batch, SoloEdgeError):
                raise batch
            yield batch

    def _next(self, batches: Iterator[Batch | SoloEdgeError]) -> Batch | SoloEdgeError | None:
        """The next batch, None at the end. A slow batch is waited for as long as its samples go on."""
        while True:
            try:
                return next(batches, None)
            except RuntimeError as error:
                # PyTorch has no class of its own for these.
                if str(error).startswith("DataLoader timed out"):
                    if stuck := self._data.watch.in_hand(longer_than=self._timeout):
                        raise self._hangs(stuck[0]) from error
                elif str(error).startswith("DataLoader worker"):
                    raise self._died(error) from error
                else:
                    raise

    def _hangs(self, index: int) -> ResourceError:
        return ResourceError(
            f"a process that loads images has been at image {self._name(index)} for more than"
            f" {self._timeout} s",
            fix="check that file and its disk, or raise --loader-timeout",
        )

    def _died(self, error: RuntimeError) -> ResourceError:
        held = ", ".join(map(self._name, self._data.watch.in_hand())) or "none"
        return ResourceError(
            f"a process that loads images was lost ({str(error).splitlines()[0]});"
            f" images in work: {held}",
            fix="free some memory, or use --workers 0",
        )

    def _name(self, index: int) -> str:
        return str(self._data.source.image_ids[index])

    def _collate(self, items: list[Item | SoloEdgeError]) -> Batch | SoloEdgeError:
        good = []
        for item in items:
            if isinstance(item, SoloEdgeError):
                return item
            good.append(item)
        images = torch.stack([item.image for item in good]) if good else self._empty
        targets, labels = [item.targets for item in good], [item.labels for item in good]
        return Batch(images, targets, labels, [item.image_id for item in good])


def _start_worker(_: int) -> None:
    import cv2

    cv2.setNumThreads(0)  # one process, one thread: the workers are the parallelism
    # Ctrl-C goes to the whole group of a terminal's processes: what it means is for the trainer to say.
    if hasattr(os, "setpgrp"):
        os.setpgrp()

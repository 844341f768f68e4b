"""What a sample of a training run shows: one image or several, varied at random."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from solo_edge.config import ModelConfig, TrainConfig
from solo_edge.data.augment import Sample, training_sample
from solo_edge.data.masks import GroundTruth
from solo_edge.data.mixing import copy_paste, mosaic, mosaic_tiles
from solo_edge.data.sampling import SampleKey
from solo_edge.preprocess import Preprocess

__all__ = ["ImageSource", "SampleMaker"]

# The streams of random numbers of one sample.
VARY, MIX, STREAMS = 0, 1, 2


class ImageSource(Protocol):
    """What training reads: a `CocoDataset`, cached or not."""

    @property
    def image_ids(self) -> Sequence[int]: ...
    def __len__(self) -> int: ...
    def image(self, index: int) -> NDArray[np.uint8]: ...
    def ground_truth(self, index: int) -> GroundTruth: ...
    def coco_dict(self) -> dict[str, Any]: ...


class SampleMaker:
    """Sample `key`. Its randomness comes from the seed and the key alone, whatever was made before it.

    Args:
        on_read: is told the index of each image before it is read.
    """

    def __init__(
        self,
        source: ImageSource,
        model: ModelConfig,
        train: TrainConfig,
        on_read: Callable[[int], None] = lambda index: None,
    ):
        self.source = source
        self.train = train
        self.preprocess = Preprocess.from_config(model)
        self.on_read = on_read

    def __call__(self, key: SampleKey) -> Sample:
        """
        Raises:
            DataError: an image cannot be read.
        """
        vary, mix = (self._random(key, stream) for stream in (VARY, MIX))
        # Both are always drawn: what one option does never changes what another one gets.
        mosaic_draw, paste_draw = mix.random(2).tolist()
        open_epochs = self.train.epochs - self.train.close_mosaic
        if key.epoch < open_epochs and mosaic_draw < self.train.mosaic:
            tiles = mosaic_tiles(self.preprocess.input_size, mix)
            pictures = [self._view(key.image, vary, tiles[0][2:])]
            pictures += [self._view(self._any(mix), mix, tile[2:]) for tile in tiles[1:]]
            sample = mosaic(pictures, tiles)
        else:
            sample = self._view(key.image, vary)
        if paste_draw < self.train.copy_paste:
            sample = copy_paste(sample, self._view(self._any(mix), mix), mix)
        return sample

    def _random(self, key: SampleKey, stream: int) -> np.random.Generator:
        words = (self.train.seed, key.epoch, key.image, key.repeat * STREAMS + stream)
        return np.random.default_rng(words)

    def _any(self, rng: np.random.Generator) -> int:
        return int(rng.integers(len(self.source)))

    def _view(
        self, index: int, rng: np.random.Generator, limit: tuple[int, int] | None = None
    ) -> Sample:
        self.on_read(index)
        image, truth = self.source.image(index), self.source.ground_truth(index)
        image_id = self.source.image_ids[index]
        return training_sample(image, truth, self.preprocess, self.train, rng, image_id, limit)

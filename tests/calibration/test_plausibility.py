"""Images that the network was not trained on: six planted mistakes are named, matching images pass."""

from __future__ import annotations

import dataclasses
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import solo_edge
from solo_edge.calibration.mistakes import mistakes
from solo_edge.calibration.plausibility import IMAGES, examine, require_plausible
from solo_edge.checkpoint import load_checkpoint
from solo_edge.config import preset
from solo_edge.data.synthetic import make_dataset
from solo_edge.errors import DataError
from solo_edge.images import list_images, read_image
from solo_edge.models.backbone import Backbone
from solo_edge.preprocess import Preprocess

MODEL = Path(solo_edge.__file__).parent / "assets/solov2-nano-256-scenes.safetensors"


@pytest.fixture(scope="module")
def loaded():
    torch.set_num_threads(1)
    return load_checkpoint(MODEL)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """80 pictures that the model has not seen, from the same source."""
    folder = tmp_path_factory.mktemp("data") / "scenes"
    make_dataset(folder, 80, 11, val_images=1)
    return [read_image(file) for file in list_images(folder / "train")]


def examined(loaded, images, preprocess=None):
    reads = [partial(np.asarray, image) for image in images]
    return examine(loaded.model.backbone, preprocess or loaded.preprocess, reads)


@pytest.mark.parametrize("part", [slice(32), slice(32, 64), slice(48, 80), slice(80)])
def test_matching_images_pass(loaded, scenes, part):
    assert examined(loaded, scenes[part]) is None


@pytest.mark.parametrize(
    ("mistake", "name", "is_sure"),
    [
        (lambda image: image[..., ::-1], r"red and blue look swapped \(BGR for RGB\)", True),
        (lambda image: 255 - image, "the colours look inverted", True),
        (lambda image: image // 255, "these images look unlike", False),
        (
            lambda image: image // 3,
            "these images look unlike those that the network was trained on",
            False,
        ),
    ],
    ids=["BGR", "inverted", "black", "dark"],
)
def test_wrong_pixels_are_named(loaded, scenes, mistake, name, is_sure):
    verdict = examined(loaded, [mistake(image) for image in scenes[:32]])
    assert verdict is not None
    assert verdict.is_sure == is_sure
    assert re.match(name, verdict.what)


def changed(preprocess: Preprocess, **changes) -> Preprocess:
    return dataclasses.replace(preprocess, **changes)


def scaled(values, factor):
    return tuple(value * factor for value in values)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (
            lambda p: changed(p, pixel_mean=(0.0, 0.0, 0.0)),
            "the mean is not subtracted: pixel_mean",
        ),
        (
            lambda p: changed(
                p,
                pixel_mean=scaled(p.pixel_mean, 1 / 255),
                pixel_std=scaled(p.pixel_std, 1 / 255),
            ),
            r"255 times too large \(not divided by 255\)",
        ),
        (
            lambda p: changed(
                p, pixel_mean=scaled(p.pixel_mean, 255), pixel_std=scaled(p.pixel_std, 255)
            ),
            r"255 times too small \(divided by 255 once too often\)",
        ),
        (lambda p: changed(p, pixel_std=(1.0, 1.0, 1.0)), "58.4 times too large"),
    ],
    ids=["no mean", "no /255", "/255 twice", "no std"],
)
def test_a_preprocessing_written_down_wrongly_is_named(loaded, scenes, change, name):
    verdict = examined(loaded, scenes[:32], change(loaded.preprocess))
    assert verdict is not None
    assert verdict.is_sure
    assert re.search(name, verdict.what)
    assert "pixel_mean (123.7, 116.3, 103.5) and pixel_std (58.4, 57.12, 57.38) fit" in verdict.what


def test_what_is_sure_is_refused_unless_it_is_allowed(loaded, scenes):
    reads = [partial(np.asarray, image[..., ::-1]) for image in scenes[:32]]
    model, lines = loaded.model.backbone, []
    with pytest.raises(DataError, match=r"^photos: red and blue .*; --allow-unlike calibrates all"):
        require_plausible(model, loaded.preprocess, reads, where="photos")
    require_plausible(model, loaded.preprocess, reads, allow=True, report=lines.append)
    assert [line[:17] for line in lines] == ["red and blue look"]


def test_another_input_size_is_named_but_not_refused(loaded, scenes):
    verdict = examined(loaded, scenes[:48], changed(loaded.preprocess, input_size=(512, 512)))
    assert verdict is not None
    assert verdict.what.startswith("objects look about twice as large as in training")
    assert not verdict.is_sure


def test_photographs_are_another_world_for_the_model_of_scenes_but_not_refused(loaded, shared):
    photos = list_images(shared / "data/balloon/train")[:32]
    verdict = examined(loaded, [read_image(file) for file in photos])
    assert verdict is not None
    assert verdict.what.startswith("these images look unlike")
    assert not verdict.is_sure


def imagenet(shared) -> tuple[nn.Module, Preprocess]:
    import safetensors.torch

    from solo_edge.importers.backbones import load_backbone_weights

    config = preset("solov2-light-mbv2-448", input_size=(224, 384))
    backbone = Backbone(config.backbone).eval()
    file = shared / "data/weights/mobilenet_v2_imagenet.safetensors"
    load_backbone_weights(backbone, safetensors.torch.load_file(file), file.name)
    return backbone, Preprocess.from_config(config)


@pytest.mark.slow
def test_photographs_fit_the_statistics_of_imagenet_and_their_mistakes_are_named(shared):
    backbone, preprocess = imagenet(shared)
    files = list_images(shared / "data/coco_train2017_287/train")[:64]
    photos = [partial(read_image, file) for file in files]
    assert examine(backbone, preprocess, photos) is None
    swapped = [lambda file=file: read_image(file)[..., ::-1] for file in files]
    verdict = examine(backbone, preprocess, swapped)
    assert verdict is not None
    assert verdict.what.startswith("red and blue look swapped")
    wrong = changed(preprocess, pixel_mean=(0.0, 0.0, 0.0), pixel_std=(1.0, 1.0, 1.0))
    with pytest.raises(DataError, match="the mean is not subtracted"):
        require_plausible(backbone, wrong, photos)


class OneUnused(nn.Module):
    """A trained batch norm, and one that the images never reach."""

    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        for norm in (self.used, self.unused):
            norm.running_mean.fill_(100.0)

    def forward(self, images):
        return self.used(images)


def test_what_remembers_nothing_is_not_asked(loaded, scenes):
    reads = [partial(np.asarray, image) for image in scenes[:2]]
    untrained = Backbone("mobilenetv4_conv_small_050").eval()
    assert examine(untrained, loaded.preprocess, reads) is None
    assert examine(nn.Conv2d(3, 4, 3), loaded.preprocess, reads) is None
    assert examine(OneUnused().eval(), loaded.preprocess, reads) is None
    assert examine(OneUnused().used.eval(), loaded.preprocess, reads) is not None
    assert examine(loaded.model.backbone, loaded.preprocess, []) is None


def test_statistics_of_a_training_that_has_just_begun_are_not_asked(loaded, scenes):
    begun = Backbone("mobilenetv4_conv_small_050").train()
    with torch.no_grad():
        begun(torch.zeros(2, 3, 64, 64))
    reads = [partial(np.asarray, image) for image in scenes[:2]]
    assert examine(begun.eval(), loaded.preprocess, reads) is None


def test_the_work_is_bounded_and_the_backbone_left_as_it_was(loaded, scenes):
    before = {name: value.clone() for name, value in loaded.model.backbone.state_dict().items()}
    looked_at = []

    def read(i):
        looked_at.append(i)
        return scenes[i % 80]

    steps = []
    reads = [partial(read, i) for i in range(200)]
    examine(
        loaded.model.backbone,
        loaded.preprocess,
        reads,
        progress=lambda done, total: steps.append(done / total),
    )
    assert len(set(looked_at)) == IMAGES
    assert max(looked_at) > 190
    assert steps == sorted(steps)
    assert steps[-1] == 1
    after = loaded.model.backbone.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    modules = loaded.model.backbone.modules()
    assert not any(module._forward_pre_hooks for module in modules)


def test_no_mistake_is_the_preprocessing_itself(loaded):
    found = list(mistakes(loaded.preprocess))
    same = [m for m in found if m.preprocess == loaded.preprocess]
    assert [m.what.split()[0] for m in same] == ["red", "the", "objects"]  # these change the pixels
    assert len({m.what for m in found}) == len(found)

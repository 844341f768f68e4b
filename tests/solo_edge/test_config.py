from __future__ import annotations

import dataclasses
import json

import pytest

from solo_edge.config import (
    PRESETS,
    ModelConfig,
    PostprocessConfig,
    TrainConfig,
    from_dict,
    preset,
)
from solo_edge.errors import UsageError


def test_presets_carry_their_own_name_and_survive_json() -> None:
    for name, config in PRESETS.items():
        assert config.name == name
        assert from_dict(ModelConfig, json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_official_light_configuration() -> None:
    light = preset("solov2-light-r18-448")
    assert light.num_cells == 3872
    assert light.strides == (8, 8, 16, 32, 32)
    assert (light.head_depth, light.head_channels, light.kernel_length) == (2, 256, 128)


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="solov2-light-r18-448"):
        preset("solov2-lite-r18-448")
    with pytest.raises(UsageError, match="did you mean 'kernel_length'"):
        preset("solov2-nano-256", kernel_lenght=32)
    with pytest.raises(UsageError, match="did you mean 'score_threshold'"):
        from_dict(PostprocessConfig, {"score_treshold": 0.2})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_classes", 0),
        ("input_size", (250, 256)),
        ("grid_sizes", (24, 20)),
        ("levels", (1, 2, 3, 4, 5)),
        ("scale_ranges", ((5, 1),) * 5),
        ("norm", "layer"),
        ("conv", "depthwise"),
        ("norm_groups", 7),
    ],
)
def test_bad_model_fields_are_refused(field: str, value: object) -> None:
    with pytest.raises(UsageError):
        preset("solov2-nano-256", **{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", 0), ("learning_rate", 0.0), ("jitter", (2.0, 1.0)), ("ema_decay", 1.0)],
)
def test_bad_training_options_are_refused(field: str, value: object) -> None:
    with pytest.raises(UsageError, match="--"):
        from_dict(TrainConfig, {field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [("score_threshold", 1.5), ("mask_threshold", 0.0), ("max_candidates", 0), ("decay", "cubic")],
)
def test_bad_thresholds_are_refused(field: str, value: object) -> None:
    with pytest.raises(UsageError, match=field):
        from_dict(PostprocessConfig, {field: value})

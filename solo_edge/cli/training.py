"""`solo-edge train` and `solo-edge make-dataset`."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from pathlib import Path

from solo_edge.cli.console import note, progress
from solo_edge.cli.parser import (
    Command,
    CommandParser,
    config_values,
    one_of,
    parse_assignments,
    positive,
)
from solo_edge.config import AUGMENTATIONS, PRESETS, ModelConfig, TrainConfig, from_dict, preset
from solo_edge.errors import UsageError

__all__ = ["MAKE_DATASET", "TRAIN"]

DEFAULT_MODEL = "solov2-light-r18-448"
# With --qat: the network is trained already and only has to move by about a step of its weights.
QAT_DEFAULTS = {"epochs": 2, "learning_rate": 1e-5, "amp": False}

TRAIN_HELP = {
    "epochs": "passes over the training images",
    "batch_size": "images in one step, of all processes together",
    "accumulate": "batches whose gradients are added before a step",
    "optimizer": "optimizer",
    "learning_rate": "highest learning rate",
    "weight_decay": "weight decay",
    "momentum": "momentum of SGD",
    "backbone_lr_scale": "learning rate of the backbone relative to the rest",
    "layer_decay": "learning rate of each stage of the backbone relative to the next one",
    "freeze": "what does not learn: none, backbone, fpn, head, mask_feature_branch or the backbone up to a"
    " stage (backbone:0 is its stem, backbone:4 all of it)",
    "freeze_epochs": "epochs for which that holds, 0 for the whole run",
    "batch_norm": "statistics of the images of each process, of all processes, or those of --init",
    "schedule": "how the learning rate falls",
    "milestones": "fractions of the run at which the step schedule divides by 10",
    "warmup_steps": "steps over which the learning rate rises",
    "clip_norm": "largest norm of the gradient",
    "ema_decay": "decay of the averaged weights, 0 for none",
    "amp": "mixed precision where the device has it",
    "dice_weight": "weight of the mask loss",
    "focal_weight": "weight of the category loss",
    "focal_alpha": "alpha of the focal loss",
    "focal_gamma": "gamma of the focal loss",
    "category_loss": "what a positive cell's score learns: 1, or the IoU of the mask it predicts",
    "lovasz_weight": "weight of the Lovasz hinge loss of the masks, 0 for none",
    "semantic_weight": "weight of an auxiliary loss: which classes are in a pixel, 0 for none",
    "distill_category": "weight of the teacher's category scores, with --teacher",
    "distill_features": "weight of the teacher's mask features, with --teacher",
    "distill_masks": "weight of the teacher's masks, with --teacher",
    "flip": "probability of a horizontal flip",
    "jitter": "smallest and largest scale relative to the deployed size",
    "brightness": "largest relative change of brightness",
    "contrast": "largest relative change of contrast",
    "saturation": "largest relative change of saturation",
    "hue": "largest shift of hue, in turns of the colour circle",
    "copy_paste": "probability that instances of another image are pasted in",
    "mosaic": "probability of a mosaic of four images",
    "close_mosaic": "last epochs, which have no mosaics",
    "repeat_threshold": "share of the images below which a class is shown more often, 0 for no class",
    "validate_every": "epochs from one validation to the next",
    "save_every": "steps (500) or minutes (10m) after which the state is saved within an epoch, 0 for never",
    "compile": "let torch.compile make the training step faster; the first steps take minutes",
    "workers": "processes that load images, 0 for none",
    "loader_timeout": "seconds after which an image that is still not loaded is an error",
    "seed": "seed of all random numbers",
    "device": "auto, cpu, cuda or cuda:1",
}


def _train_arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="images and COCO annotations: DIR/train.json with DIR/train/, DIR/val.json with DIR/val/",
    )
    parser.add_argument(
        "--model",
        type=one_of("model preset", PRESETS),
        metavar="PRESET",
        help=f"{', '.join(PRESETS)} (default: {DEFAULT_MODEL})",
    )
    parser.add_argument(
        "--out", "-o", type=Path, required=True, metavar="RUN", help="folder of the run"
    )
    parser.add_argument(
        "--init",
        type=Path,
        metavar="WEIGHTS",
        help="safetensors file to start from: backbone weights or a checkpoint",
    )
    parser.add_argument(
        "--qat",
        type=Path,
        metavar="RANGES.json",
        help="fine-tune the checkpoint --init for INT8 with its ranges (of solo-edge calibrate); changes the"
        " defaults to --epochs 2 --learning-rate 1e-5 --no-amp and leaves RUN/ranges.json for build-engine",
    )
    parser.add_argument(
        "--teacher",
        type=Path,
        metavar="CHECKPOINT",
        help="a larger model of the same classes that the new one learns from as well",
    )
    parser.add_argument(
        "--augmentation",
        type=one_of("augmentation", AUGMENTATIONS),
        default="default",
        metavar="NAME",
        help=f"values of several options at once: {', '.join(AUGMENTATIONS)} (default: default);"
        " options given beside it win",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in RUN where it was saved last, with the options it was started with",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="assignments",
        help="change a field of the model, e.g. --set input_size='(320, 544)'; may be repeated",
    )
    parser.add_argument(
        "--cache-gib",
        type=float,
        default=4.0,
        metavar="X",
        help="memory in GiB for decoded images; read from disk when they need more (default: 4)",
    )
    parser.add_config(TrainConfig, TRAIN_HELP, "training options")


def _train(values: argparse.Namespace) -> None:
    given = {**AUGMENTATIONS[values.augmentation], **config_values(TrainConfig, values)}
    changes = parse_assignments(values.assignments, ModelConfig)
    if not values.cache_gib >= 0:
        raise UsageError(f"--cache-gib is {values.cache_gib}", fix="it must not be negative")
    if values.resume and values.init is not None:
        raise UsageError("--resume and --init exclude each other", fix="leave --init away")
    if values.resume and values.qat is not None:
        raise UsageError("--resume and --qat exclude each other", fix="leave --qat away")
    model: ModelConfig | None
    if values.qat is not None:
        if values.model is not None or changes:
            what = "--qat takes the model from --init"
            raise UsageError(what, fix="leave --model and --set away")
        model, config = None, TrainConfig(**{**QAT_DEFAULTS, **given})
    elif values.resume:
        from solo_edge.run_folder import saved_configs

        model, config = saved_configs(values.out)
        model = model if values.model is None else preset(values.model)
        model = from_dict(ModelConfig, {**dataclasses.asdict(model), **changes})
        config = dataclasses.replace(config, **given)
    else:
        config = TrainConfig(**given)
        model = preset(values.model or DEFAULT_MODEL, **changes)

    from solo_edge.train import train

    best = train(
        values.data,
        model,
        values.out,
        config,
        init=values.init,
        qat=values.qat,
        teacher=values.teacher,
        resume=values.resume,
        cache_bytes=int(values.cache_gib * 2**30),
        report=note,
        show_progress=sys.stderr.isatty(),
    )
    if os.environ.get("RANK", "0") == "0":  # the others, if there are any, do not write
        print(best)


def _make_dataset_arguments(parser: CommandParser) -> None:
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument(
        "--images",
        type=positive,
        default=1000,
        metavar="N",
        help="number of training images (default: 1000)",
    )
    parser.add_argument(
        "--val-images",
        type=positive,
        metavar="N",
        help="number of validation images (default: a tenth of --images, at least 1)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="S",
        help="the same seed gives the same pictures (default: 0)",
    )
    parser.add_argument(
        "--size",
        type=positive,
        nargs=2,
        default=(256, 256),
        metavar=("HEIGHT", "WIDTH"),
        help="image size in pixels (default: 256 256)",
    )
    parser.add_argument(
        "--video-frames",
        type=positive,
        metavar="N",
        help="also render OUT/video.mp4 with N frames at 25 per second (default: no video)",
    )


def _make_dataset(values: argparse.Namespace) -> None:
    from solo_edge.data.synthetic import make_dataset, render_video

    with progress("rendering") as show:
        make_dataset(
            values.out,
            values.images,
            values.seed,
            size=(values.size[0], values.size[1]),
            val_images=values.val_images,
            progress=show,
        )
    print(values.out)
    if values.video_frames is not None:
        video = values.out / "video.mp4"
        render_video(video, values.video_frames, values.seed)
        print(video)


TRAIN = Command(
    "train",
    "Train a model on your own images and masks.",
    "solo-edge train --data scenes --model solov2-nano-256 --out runs/scenes --epochs 20",
    _train_arguments,
    _train,
)
MAKE_DATASET = Command(
    "make-dataset",
    "Render scenes of simple objects with exact masks, in COCO format.",
    "solo-edge make-dataset scenes --images 200 --val-images 50 --seed 1",
    _make_dataset_arguments,
    _make_dataset,
)

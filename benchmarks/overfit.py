"""Can the model learn? Train on a few images until it knows them by heart, and fail where it does not.

    python benchmarks/overfit.py DATA [--split all] [--images 8] [--model solov2-nano-256] [--goal 0.9]

A network, target or loss that is wrong in a subtle way still learns a little; it does not reach 0.9.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from solo_edge.checkpoint import load_checkpoint
from solo_edge.config import TrainConfig, preset
from solo_edge.data.coco import open_dataset
from solo_edge.evaluate import evaluate
from solo_edge.train import model_predictor, train


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="COCO data set")
    parser.add_argument("--split", default="train")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--model", default="solov2-nano-256")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="input size")
    parser.add_argument("--epochs", type=int, default=600)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--goal", type=float, default=0.9, help="mask AP on the same images")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        data = first_images(options.data, options.split, options.images, Path(folder) / "data")
        overrides = {"input_size": tuple(options.size)} if options.size else {}
        # Nothing that hides an image from the model: no augmentation, no averaging of weights.
        config = TrainConfig(
            epochs=options.epochs,
            batch_size=options.images,
            learning_rate=options.learning_rate,
            weight_decay=0.0,
            flip=0.0,
            jitter=(1.0, 1.0),
            brightness=0.0,
            contrast=0.0,
            saturation=0.0,
            hue=0.0,
            ema_decay=0.9,
            warmup_steps=50,
            validate_every=max(options.epochs // 10, 1),
            workers=0,
        )
        model = preset(options.model, **overrides)
        best = train(data, model, Path(folder) / "run", config)
        checkpoint = load_checkpoint(best)
        predict = model_predictor(checkpoint.model, checkpoint.class_names)
        ap = evaluate(predict, open_dataset(data, "train")).stats["AP"]
    print(
        f"mask AP {ap:.3f} on the {options.images} images it was trained on (goal {options.goal})"
    )
    return 0 if ap >= options.goal else 1


def first_images(data: Path, split: str, count: int, out: Path) -> Path:
    """A data set whose training and validation splits are both the first `count` images of `split`."""
    dataset = open_dataset(data, split)
    (out / "train").mkdir(parents=True)
    content = dataset.coco_dict()
    chosen = set(dataset.image_ids[:count])
    content["images"] = [image for image in content["images"] if image["id"] in chosen]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in chosen]
    for i in range(count):
        shutil.copy(dataset.image_path(i), out / "train" / dataset.image_path(i).name)
    for image in content["images"]:
        image["file_name"] = Path(image["file_name"]).name
    text = json.dumps(content)
    for name in ("train", "val"):
        (out / f"{name}.json").write_text(text)
    (out / "val").symlink_to("train")
    return out


if __name__ == "__main__":
    sys.exit(main())

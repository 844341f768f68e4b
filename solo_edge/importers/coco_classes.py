"""The 80 classes of COCO detection, in category-id order, with their ids (1 to 90, with gaps)."""

from __future__ import annotations

__all__ = ["COCO_CATEGORY_IDS", "COCO_CLASS_NAMES", "category_ids", "default_names"]

# fmt: off
COCO_CLASS_NAMES: tuple[str, ...] = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard",
    "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors",
    "teddy bear", "hair drier", "toothbrush",
)
# fmt: on
_UNUSED_IDS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
COCO_CATEGORY_IDS: tuple[int, ...] = tuple(i for i in range(1, 91) if i not in _UNUSED_IDS)


def default_names(count: int) -> tuple[str, ...]:
    """Names for a checkpoint that carries none: COCO's where there are 80 of them."""
    if count == len(COCO_CLASS_NAMES):
        return COCO_CLASS_NAMES
    return tuple(f"class {i}" for i in range(count))


def category_ids(names: tuple[str, ...]) -> tuple[int, ...]:
    """The category id of each class: COCO's own for COCO's classes, else counted from 1."""
    return COCO_CATEGORY_IDS if names == COCO_CLASS_NAMES else tuple(range(1, len(names) + 1))

"""The kinds of defects, each with its code, how bad it is, what helps and what a clean copy makes of it.

An error is what training refuses: it would fail on it, or learn something that nobody meant. A warning
is usable, but probably not meant. A note is worth knowing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["KINDS", "Kind", "Severity"]

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Kind:
    code: str
    severity: Severity
    title: str  # what is wrong, as a phrase
    fix: str  # what the owner can do
    clean: str  # what `--fix-to` does about it


_LEAVE_OUT = "leaves the annotation out"
_IMAGE_OUT = "leaves the image and its annotations out"
_NOTHING = "changes nothing"
_DRAW_AGAIN = "draw the object again"

_FILES = (
    Kind("file-unreadable", "error", "the annotation file cannot be read", "export it again",
         "leaves the file out"),
    Kind("list-missing", "error", "images, annotations or categories is missing or no list",
         "give a COCO file of instances", "leaves the split out"),
    Kind("no-images", "error", "there are no images", "add images", "leaves the split out"),
    Kind("no-categories", "error", "there are no categories", "add the categories",
         "leaves the split out"),
    Kind("no-objects", "warning", "there is no object in any image", "annotate some objects", _NOTHING),
    Kind("classes-differ", "error", "the splits differ in their classes",
         "give all splits the same categories", "gives every split the classes of all"),
    Kind("label-orphan", "warning", "a label or mask file belongs to no image",
         "add the image or remove the file", "leaves the file out"),
    Kind("mask-missing", "warning", "an image has no mask file and counts as empty",
         "add its mask or remove the image", "keeps the image as empty"),
    Kind("mask-size", "error", "a mask differs from its image in size",
         "export the mask at the image's size", _IMAGE_OUT),
    Kind("mask-merged", "warning",
         "a mask of one value with several separate parts: one mask for all objects?",
         "give every object a value or a file of its own", _NOTHING),
)  # fmt: skip

_RECORDS = (
    Kind("record-malformed", "error", "a record is no object", "remove it", "leaves the record out"),
    Kind("id-missing", "error", "id is missing", "number the records",
         "numbers annotations; leaves images and categories out"),
    Kind("id-not-number", "error", "an id is not a whole number", "number the records",
         "turns '12' into 12 and gives names numbers of their own"),
    Kind("id-duplicate", "error", "an id is used twice", "give every record an id of its own",
         "renumbers annotations; of images and categories equal records are merged, others left out"),
    Kind("image-id-unknown", "error", "an annotation of an image that is not listed",
         "add the image or remove the annotation", _LEAVE_OUT),
    Kind("category-id-unknown", "error", "an annotation of a category that is not listed",
         "add the category or correct the id", _LEAVE_OUT),
    Kind("category-name-missing", "error", "a category has no name", "name it",
         "leaves the category and its annotations out"),
    Kind("category-name-duplicate", "warning", "two categories have one name", "rename or merge them",
         "merges them"),
    Kind("category-gaps", "note", "category ids have gaps (labels are counted without them)",
         "nothing", _NOTHING),
    Kind("category-unused", "note", "a category without any object", "annotate some or remove it",
         _NOTHING),
    Kind("image-size-invalid", "error", "height or width is missing or makes no sense",
         "write the image's size", "takes the file's size"),
    Kind("file-name-invalid", "error", "file_name is missing or not a name",
         "write the image's file name", _IMAGE_OUT),
    Kind("file-name-unsafe", "error", "file_name leaves the folder of the images",
         "name files inside the data set", _IMAGE_OUT),
    Kind("file-name-case", "error", "the file's name is spelt otherwise (upper and lower case, slashes)",
         "write the name as the file has it", "takes the file's name"),
    Kind("file-name-duplicate", "warning",
         "two images have one file: the objects of one are background in the other",
         "merge the two records", "merges them"),
    Kind("crowd-flag-invalid", "error", "iscrowd is neither 0 nor 1", "write 0 or 1", _LEAVE_OUT),
    Kind("rle-uncompressed", "note", "run lengths as a list of numbers (read, but larger and slower)",
         "nothing", "compresses them"),
)  # fmt: skip

_MASKS = (
    Kind("segmentation-missing", "error", "segmentation is missing", "annotate masks, not boxes",
         _LEAVE_OUT),
    Kind("segmentation-invalid", "error", "segmentation is neither polygons nor a run-length code",
         _DRAW_AGAIN, _LEAVE_OUT),
    Kind("box-only", "error", "a box without a mask", "annotate masks, not boxes", _LEAVE_OUT),
    Kind("shape-unsupported", "warning", "a shape that encloses no area (line, point) is not used",
         "draw polygons, rectangles or circles", _LEAVE_OUT),
    Kind("polygon-not-numbers", "error", "a polygon with something that is not a number", _DRAW_AGAIN,
         _LEAVE_OUT),
    Kind("polygon-odd", "error", "a polygon with an odd number of numbers", _DRAW_AGAIN, _LEAVE_OUT),
    Kind("polygon-short", "error", "a polygon of less than 3 points", _DRAW_AGAIN,
         "leaves the part out, or the annotation"),
    Kind("polygon-not-finite", "error", "a polygon with NaN or infinity", _DRAW_AGAIN, _LEAVE_OUT),
    Kind("polygon-far-outside", "error", "a polygon reaches far outside its image", _DRAW_AGAIN,
         _LEAVE_OUT),
    Kind("polygon-outside", "warning", "a polygon entirely outside its image is not used",
         "check whether it belongs to another image or size", _LEAVE_OUT),
    Kind("polygon-sticks-out", "warning", "a polygon reaches out of its image and is cut off",
         "check the image's size", _NOTHING),
    Kind("polygon-self-crossing", "warning", "a polygon crosses itself: parts of it are not filled",
         _DRAW_AGAIN, _NOTHING),
    Kind("no-pixels", "warning", "an object without a pixel is not used", "remove it", _LEAVE_OUT),
    Kind("rle-size", "error", "a run-length code of another size than its image",
         "export it at the image's size", _LEAVE_OUT),
    Kind("rle-counts", "error", "run lengths are missing, no numbers or do not add up to the image",
         _DRAW_AGAIN, _LEAVE_OUT),
    Kind("rle-damaged", "error", "a compressed run-length code is damaged", _DRAW_AGAIN, _LEAVE_OUT),
    Kind("bbox-invalid", "warning", "bbox or area is no finite number (the mask's is used)",
         "compute it from the mask", "computes it from the mask"),
    Kind("bbox-differs", "warning", "bbox and mask disagree (training uses the mask)",
         "check which one is right", "computes it from the mask"),
    Kind("area-differs", "warning", "area and mask disagree by more than a factor of 2",
         "compute it from the mask", "computes it from the mask"),
    Kind("instance-duplicate", "warning", "an object is annotated twice", "remove one of them",
         "keeps the first"),
    Kind("instance-two-classes", "warning", "an object is annotated with two classes",
         "remove one of them", _NOTHING),
)  # fmt: skip

_IMAGES = (
    Kind("image-missing", "error", "the image file is not there", "put it there or remove its entry",
         _IMAGE_OUT),
    Kind("image-unreadable", "error", "the image cannot be read", "replace or remove it", _IMAGE_OUT),
    Kind("image-too-large", "error", "the image has too many pixels", "make it smaller", _IMAGE_OUT),
    Kind("image-size-differs", "error", "the image is not of the annotated size",
         "restore the image that was annotated", _IMAGE_OUT),
    Kind("exif-size-differs", "error",
         "annotated without its EXIF orientation (width and height swapped)",
         "turn the image's pixels, or annotate it as it is shown",
         "writes the pixels as they were annotated"),
    Kind("exif-ambiguous", "warning",
         "the EXIF orientation turns the image without changing its size: was it annotated as shown?",
         "look at its annotations", _NOTHING),
    Kind("image-mode", "note", "not 8-bit RGB (converted when read)", "nothing", _NOTHING),
    Kind("image-unlisted", "note", "an image file that no annotation file lists",
         "annotate it or ignore this", "leaves it out"),
    Kind("image-duplicate", "warning", "the same image twice in a split", "remove one of them",
         _NOTHING),
    Kind("image-near-duplicate", "note", "an image that looks nearly like another one of its split",
         "nothing", _NOTHING),
    Kind("leak-exact", "warning", "the same image in two splits: accuracy measured there is too good",
         "remove it from one, or divide again with solo-edge split", _NOTHING),
    Kind("leak-near", "warning", "nearly the same image in two splits, like frames of one video",
         "divide again with solo-edge split, which keeps them together", _NOTHING),
)  # fmt: skip

KINDS: dict[str, Kind] = {kind.code: kind for kind in (*_FILES, *_RECORDS, *_MASKS, *_IMAGES)}

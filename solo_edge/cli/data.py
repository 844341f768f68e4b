"""`solo-edge check-data`, `solo-edge split` and `solo-edge suggest`."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from solo_edge.cli.arguments import DATA_HELP, add_out
from solo_edge.cli.console import note, progress, table
from solo_edge.cli.parser import Command, CommandParser, one_of, positive, probability
from solo_edge.config import PRESETS
from solo_edge.errors import DataError

if TYPE_CHECKING:
    from solo_edge.data.check import CheckedSplit, Report

__all__ = ["CHECK_DATA", "SPLIT", "SUGGEST"]

SHOWN = 3  # places of each kind of defect


def _check_arguments(parser: CommandParser) -> None:
    parser.add_argument("data", type=Path, metavar="DIR", help=DATA_HELP)
    parser.add_argument(
        "--split",
        action="append",
        default=[],
        metavar="NAME",
        help="only this part; may be repeated (default: all, and what they share)",
    )
    parser.add_argument(
        "--images",
        type=one_of("level", ("decode", "headers", "none")),
        default="decode",
        metavar="decode|headers|none",
        help="read the pixels, the headers, or only look whether the files are there (default: decode)",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write every single defect as JSON; - prints it"
    )
    parser.add_argument(
        "--fix-to", type=Path, metavar="DIR", help="write a clean copy in COCO format"
    )
    parser.add_argument(
        "--link", action="store_true", help="with --fix-to: hard links instead of copied images"
    )


def _check_data(values: argparse.Namespace) -> int:
    from solo_edge.data.check import check_dataset, write_clean_copy
    from solo_edge.data.check.copying import require_apart
    from solo_edge.files import write_json

    if values.fix_to is not None:
        require_apart(values.fix_to, values.data)
    with progress("checking") as show:
        report = check_dataset(values.data, values.split, level=values.images, progress=show)
    if values.json == Path("-"):
        json.dump(report.to_dict(), sys.stdout, indent=2, ensure_ascii=False, allow_nan=False)
        print()
    else:
        _print_report(report)
        if values.json is not None:
            write_json(values.json, report.to_dict())
    if values.fix_to is not None:
        with progress("copying") as show:
            written = write_clean_copy(
                report, values.fix_to, level=values.images, link=values.link, progress=show
            )
        for split, (images, annotations) in written.items():
            note(f"{values.fix_to}: {split} with {images} images, {annotations} annotations")
    return DataError.exit_code if report.count("error") else 0


def _print_report(report: Report) -> None:
    print(f"{report.path}: {report.format}")
    for split, defects in report.all_defects():
        for kind, findings in defects.found():
            where = "" if split is None else f"{split}: "
            times = f" x {len(findings)}" if len(findings) > 1 else ""
            print(f"\n{kind.severity:<7}  {where}{kind.title} [{kind.code}]{times}")
            for finding in findings[:SHOWN]:
                more = "" if finding.detail == kind.title else f": {finding.detail}"
                print(f"         {finding.place}{more}")
            if len(findings) > SHOWN:
                print(f"         ... and {len(findings) - SHOWN} more (--json FILE has them all)")
            if kind.severity != "note":
                print(f"         -> {kind.fix}; --fix-to DIR {kind.clean}")
    print()
    for checked in report.splits:
        _print_statistics(checked)
    counts = [f"{report.count(s)} {s}s" for s in ("error", "warning", "note")]
    print(f"{', '.join(counts)}" + ("; training refuses errors" * bool(report.count("error"))))


def _print_statistics(checked: CheckedSplit) -> None:
    name, facts = checked.source.split, checked.statistics
    for line in checked.source.notes:
        print(line)
    header = (name, "instances", "images", "small", "medium", "large", "median size")
    rows = [
        (each.name, *map(str, (each.instances, each.images, each.small, each.medium, each.large)),
         f"{each.median_size:g}")
        for each in facts.classes
    ]  # fmt: skip
    table(header, rows)
    sizes = ", ".join(f"{key} {value:g}" for key, value in facts.size_percentiles.items())
    print(
        f"{name}: {facts.images} images ({facts.empty_images} without objects), {facts.instances} objects,"
        f" {facts.crowds} crowd regions; in an image {facts.median_in_image:g} (median) to"
        f" {facts.most_in_image}; square roots of areas: {sizes}\n"
    )


def _split_arguments(parser: CommandParser) -> None:
    parser.add_argument("data", type=Path, metavar="DIR", help=DATA_HELP)
    add_out(parser, "OUT", "folder to write; it gets OUT/train.json with OUT/train/ and so on")
    parser.add_argument(
        "--val",
        type=probability,
        default=0.2,
        metavar="X",
        help="share of validation (default: 0.2)",
    )
    parser.add_argument(
        "--test", type=probability, default=0.0, metavar="X", help="share of test (default: none)"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="S",
        help="the same seed divides the same images equally (default: 0)",
    )
    parser.add_argument(
        "--split", metavar="NAME", help="the part to divide, if the data have several"
    )
    parser.add_argument(
        "--link", action="store_true", help="hard links instead of copies of the images"
    )
    parser.add_argument(
        "--ignore-copies",
        action="store_true",
        help="also divide images that look alike; accuracy measured afterwards is too good",
    )


def _split(values: argparse.Namespace) -> None:
    from solo_edge.data.split import split_dataset

    shares = {"train": 1.0 - values.val - values.test, "val": values.val, "test": values.test}
    with progress("looking at images") as show:
        division = split_dataset(
            values.data,
            values.out,
            {name: share for name, share in shares.items() if share != 0},
            seed=values.seed,
            split=values.split,
            keep_copies_together=not values.ignore_copies,
            link=values.link,
            progress=show,
        )
    names = list(division.images)
    rows = [("images", *(str(division.images[name]) for name in names))]
    classes = division.instances[names[0]]
    rows += [(each, *(str(division.instances[name][each]) for name in names)) for each in classes]
    table(("", *names), rows)
    if division.largest_group > 1:
        note(
            f"images that look alike stay together; the largest group has {division.largest_group}"
        )
    print(values.out)


def _suggest_arguments(parser: CommandParser) -> None:
    parser.add_argument("data", type=Path, metavar="DIR", help=DATA_HELP)
    parser.add_argument(
        "--split",
        default="train",
        metavar="NAME",
        help="which part of the data (default: train)",
    )
    parser.add_argument(
        "--model",
        type=one_of("model preset", PRESETS),
        metavar="PRESET",
        help="keep to this preset (default: the one that fits the input size)",
    )
    parser.add_argument(
        "--max-pixels",
        type=positive,
        default=448 * 768,
        metavar="N",
        help="choose no larger input than this (default: 344064, which is 448 x 768)",
    )
    parser.add_argument(
        "--max-images",
        type=positive,
        default=500,
        metavar="N",
        help="look at this many images, spread over the data (default: 500)",
    )
    parser.add_argument(
        "--out", "-o", type=Path, metavar="FILE", help="draw why: a .png, or .html with the tables"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")


def _suggest(values: argparse.Namespace) -> None:
    from solo_edge.data.coco import open_dataset
    from solo_edge.files import write_json
    from solo_edge.suggest import GRID_HEADER, INPUT_HEADER, suggest
    from solo_edge.suggest_chart import check_suffix, draw_report

    if values.out is not None:
        check_suffix(values.out)
    dataset = open_dataset(values.data, values.split)
    for line in dataset.warnings:
        note(f"note: {line}")
    if values.split != "train":
        note("note: training takes the split 'train'; solo-edge split makes one")
    with progress("trying configurations") as show:
        found = suggest(
            dataset,
            preset_name=values.model,
            max_pixels=values.max_pixels,
            max_images=values.max_images,
            progress=show,
        )
    table(INPUT_HEADER, found.input_rows())
    table(GRID_HEADER, found.grid_rows())
    for line in found.reasons:
        print(line)
    command = found.command(values.data)
    print(f"\n{shlex.join(command)}")
    if values.json is not None:
        write_json(values.json, {**found.to_dict(), "command": command})
    if values.out is not None:
        draw_report(found, values.out, shlex.join(command))


CHECK_DATA = Command(
    "check-data",
    "Find everything that is wrong with a data set, in one pass, and how to mend it.",
    "solo-edge check-data photos --json defects.json --fix-to photos-clean",
    _check_arguments,
    _check_data,
)
SPLIT = Command(
    "split",
    "Divide a data set into training, validation and test, with copies kept together.",
    "solo-edge split photos -o dataset --val 0.2 --test 0.1",
    _split_arguments,
    _split,
)
SUGGEST = Command(
    "suggest",
    "Propose preset, input size, grids and scale ranges from the objects' sizes and places.",
    "solo-edge suggest dataset -o why.html",
    _suggest_arguments,
    _suggest,
)

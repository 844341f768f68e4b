"""The YAML of zones: what is read, and that every mistake is one line that leads to it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from solo_edge.errors import DataError, SoloEdgeError, UsageError
from solo_edge.zones import read_zones

WHOLE = """
zones:
  - name: dock
    points: [[0.1, 0.2], [0.5, 0.2], [0.5, 0.9], [0.1, 0.9]]
    classes: [person]
    anchor: mask
    dwell_s: 5
lines:
  - name: gate
    points: [[0.5, 0.0], [0.5, 0.5], [0.7, 1.0]]
    source: 1
"""
ZONE = "zones:\n- name: a\n  points: [[0, 0], [1, 0], [1, 1]]\n"


def read(folder: Path, text: str):
    path = folder / "zones.yaml"
    path.write_text(text, "utf-8")
    return read_zones(path)


def test_everything_is_read(tmp_path):
    found = read(tmp_path, WHOLE)
    (zone,), (line,) = found.zones, found.lines
    assert (zone.name, zone.classes, zone.anchor, zone.dwell_s) == (
        "dock",
        ("person",),
        "mask",
        5.0,
    )
    assert (line.name, line.classes, line.anchor, line.source) == ("gate", (), "bottom", 1)
    np.testing.assert_allclose(line.points_in((100, 200)), [[100, 0], [100, 50], [140, 100]])


def test_the_example_of_the_documentation_is_read(tmp_path):
    page = Path(__file__).parents[2] / "docs/tracking.md"
    found = read(tmp_path, page.read_text("utf-8").split("```yaml\n")[1].split("```")[0])
    assert [figure.name for figure in (*found.zones, *found.lines)] == ["dock", "gate"]
    assert (found.zones[0].source, found.zones[0].dwell_s) == (0, 5.0)


def test_pixels_stay_pixels(tmp_path):
    found = read(
        tmp_path, "units: pixels\nzones:\n- {name: a, points: [[5, 5], [90, 5], [90, 40]]}\n"
    )
    np.testing.assert_array_equal(found.zones[0].points_in((7, 7)), [[5, 5], [90, 5], [90, 40]])


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        (ZONE, False),
        (ZONE + "  dwell_s: 1\n", True),
        ("lines: [{name: a, points: [[0, 0], [1, 1]]}]", True),
    ],
)
def test_lines_and_dwelling_need_tracking(tmp_path, text, needed):
    found = read(tmp_path, text)
    assert found.needs_tracking is needed
    found.check(("person",), tracked=True)
    if needed:
        with pytest.raises(UsageError, match="--track"):
            found.check(("person",), tracked=False)


# What is wrong, the line on which, and what the message says about it.
MISTAKES = [
    ("", None, "empty"),
    ("zones: []", 1, "neither a zone nor a line"),
    ("zones: [", 1, "no valid YAML"),
    ("a: b: c", 1, "no valid YAML"),
    ("zone: []", 1, "did you mean 'zones'"),
    ("- 1", 1, "must be keys with values"),
    ("just text", 1, "must be keys with values"),
    ("units: meters\n" + ZONE, 1, "'meters' is not possible"),
    ("zones: 3", 1, "must be a list"),
    ("zones:\n- 3", 2, "must be keys with values"),
    ("zones:\n- name: a", 2, "'points' is missing"),
    (ZONE + "  anker: bottom", 4, "did you mean 'anchor'"),
    (ZONE + "  anchor: botom", 4, "did you mean 'bottom'"),
    (ZONE + "  name: b", 4, "'name' comes twice"),
    (ZONE + "- name: a\n  points: [[0, 0], [1, 0], [1, 1]]\n", 4, "comes twice"),
    (ZONE + "lines:\n- name: a\n  points: [[0, 0], [1, 0]]\n", 5, "comes twice"),
    (ZONE + "  classes: []", 4, "list is empty"),
    (ZONE + "  classes: person", 4, "must be a list"),
    (ZONE + "  classes: [1]", 4, "must be a text"),
    (ZONE + "  classes: [yes]", 4, "must be a text"),
    (ZONE + "  dwell_s: 0", 4, "more than 0"),
    (ZONE + "  dwell_s: .nan", 4, "finite"),
    (ZONE + "  dwell_s: soon", 4, "must be a number"),
    (ZONE + "  dwell_s: true", 4, "must be a number"),
    (ZONE + "  source: -1", 4, "a number from 0"),
    (ZONE.replace("name: a", "name: ''"), 2, "1 to 60"),
    (ZONE.replace("name: a", 'name: "a\\nb"'), 2, "1 to 60"),
    (ZONE.replace("name: a", "name: {}"), 2, "single value"),
    (ZONE.replace("[1, 1]", "[1, 2]"), 3, "units: pixels"),
    (ZONE.replace("[1, 1]", "[1, 1, 1]"), 3, "[x, y]"),
    (ZONE.replace("[1, 1]", "[1, two]"), 3, "must be a number"),
    (ZONE.replace(", [1, 1]", ""), 3, "too few"),
    (ZONE.replace("[1, 1]", "[0.5, 0]"), 3, "no area"),
    (ZONE.replace("[1, 1]", "[0, 1], [1, 1]"), 3, "cross each other"),
    ("lines:\n- name: a\n  points: [[0, 0], [0, 0]]", 3, "are the same"),
    ("lines:\n- name: a\n  points: [[0, 0], [0, 1]]\n  anchor: mask", 4, "crossed by a point"),
    ("lines:\n- name: a\n  points: [[0, 0], [0, 1]]\n  dwell_s: 1", 4, "unknown key 'dwell_s'"),
    ("zones: !!python/object/apply:os.getcwd []", 1, "neither a zone nor a line"),
    (ZONE.replace("[1, 1]", "!!python/name:os.getcwd ''"), 3, "must be a list"),
    (ZONE.replace("name: a", "name: !!python/name:os.getcwd ''"), 2, "cannot be understood"),
    (ZONE.replace("name: a", "name: 2026-99-99"), 2, "cannot be understood"),
    ("[" * 5000, None, "no valid YAML"),
    ("zones: &a [*a]", 1, "must be keys with values"),
]


@pytest.mark.parametrize(("text", "line", "says"), MISTAKES)
def test_every_mistake_is_one_line_with_its_place(tmp_path, text, line, says):
    with pytest.raises(DataError) as caught:
        read(tmp_path, text)
    message = str(caught.value)
    assert says in message
    assert "\n" not in message
    assert (f"zones.yaml, line {line}:" in message) == (line is not None)


def test_no_random_file_gets_past_as_another_error(tmp_path):
    rng = np.random.default_rng(0)
    for _ in range(300):
        letters = list(WHOLE)
        for _ in range(int(rng.integers(1, 6))):
            at = int(rng.integers(len(letters)))
            letters[at : at + int(rng.integers(0, 3))] = str(
                rng.choice(list("[]{}:-,\n &*!'\"0é\x00"))
            )
        with suppress(SoloEdgeError):  # anything else fails the test
            read(tmp_path, "".join(letters))


def test_a_file_that_is_not_there_or_too_large(tmp_path):
    with pytest.raises(UsageError, match="not found"):
        read_zones(tmp_path / "none.yaml")
    with pytest.raises(DataError, match="cannot be read"):
        read_zones(tmp_path)
    with pytest.raises(DataError, match="larger than 1 MiB"):
        read(tmp_path, "#" * (1 << 20) + "\n")
    (tmp_path / "zones.yaml").write_bytes(b"zones: \xff")
    with pytest.raises(DataError, match="no valid YAML"):
        read_zones(tmp_path / "zones.yaml")


def test_unknown_classes_and_sources_are_told(tmp_path):
    found = read(tmp_path, WHOLE)
    found.check(("person",), tracked=True, sources=("door", "yard"))
    with pytest.raises(DataError, match="did you mean 'persons'"):
        found.check(("persons",), tracked=True)
    with pytest.raises(DataError, match="not open"):
        found.check(("person",), tracked=True, sources=("door",))


def test_each_source_gets_its_own_figures(tmp_path):
    yard = "  - {name: yard, points: [[0, 0], [1, 1]], source: door}\n"
    found = read(tmp_path, WHOLE + yard)
    assert set(found.counter().counts) == {"dock", "gate", "yard"}
    assert set(found.counter(0, "door").counts) == {"dock", "yard"}
    assert set(found.counter(1, "street").counts) == {"dock", "gate"}

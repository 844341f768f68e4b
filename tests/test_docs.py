"""What the documentation tells people to type exists: commands, options, files, package requirements."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

from solo_edge import cli
from solo_edge.doctor.platforms import Platform, cuda_requirement
from solo_edge.errors import UsageError

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])
PLACEHOLDERS = {"METHOD": "max"}  # of words that only some values may replace
JETSON = (ROOT / "docs/jetson.md").read_text("utf-8")


def blocks(text):
    """The lines of fenced blocks without a language, continued ones joined."""
    for block in re.findall(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield from block.replace("\\\n", " ").splitlines()


def commands(text):
    """The arguments of every call of solo-edge in a block."""
    for line in blocks(text):
        # In a container the arguments follow the name of the image.
        call = re.search(r"^(?:docker run .* )?solo-edge(?::\w+)? (.*)", line)
        if call:
            words = shlex.split(call.group(1), comments=True)
            if words and words[0] not in ("COMMAND", "--help", "--version"):
                yield [PLACEHOLDERS.get(word, word) for word in words]


def mentions(text):
    """The words of every `solo-edge ...` in running text, which may leave arguments out."""
    plain = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for words in re.findall(r"`solo-edge ([^`]+)`", plain):
        if not words.startswith(("COMMAND", "--")):
            yield words.split()


def check_command(words):
    """Raise what the command would raise for these arguments, short of running it."""
    assert words[0] in cli.COMMANDS, words
    cli.COMMANDS[words[0]].parser().parse(words[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_and_option_exists(page):
    text = page.read_text("utf-8")
    for words in commands(text):
        try:
            check_command(words)
        except (UsageError, SystemExit) as error:
            pytest.fail(f"solo-edge {shlex.join(words)}: {error}")
    for words in mentions(text):
        assert words[0] in cli.COMMANDS, words
        options = cli.COMMANDS[words[0]].parser()._option_string_actions
        named = [word.strip("[]").partition("=")[0] for word in words[1:]]
        assert {word for word in named if word.startswith("-")} <= set(options), words


def test_the_page_for_jetsons_shows_the_commands_that_people_need():
    shown = {words[0] for words in commands(JETSON)}
    assert {"doctor", "build-engine", "inspect", "predict", "stream", "benchmark"} <= shown


@pytest.mark.parametrize(
    "line",
    [
        "solo-edge frobnicate",
        "solo-edge doctor --jsn",
        "solo-edge stream",
        "solo-edge build-engine x -o y --backend tensorflow",
    ],
)
def test_the_check_sees_what_does_not_exist(line):
    (words,) = commands(f"```\n{line}\n```")
    with pytest.raises((UsageError, AssertionError)):
        check_command(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text("utf-8")):
        path, _, anchor = target.partition("#")
        file = page if not path else page.parent / path
        assert file.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.MULTILINE)
            assert anchor in {title.lower().replace(" ", "-") for title in titles}, target


def test_files_that_the_page_for_jetsons_names_exist():
    named = set(re.findall(r"(?<![\w/])((?:docker|benchmarks|solo_edge|docs)/[\w./-]+)", JETSON))
    assert len(named) >= 4
    for name in named - {"benchmarks/results/"}:
        assert (ROOT / name).exists(), name


def test_installing_on_a_jetson_replaces_neither_opencv_nor_torch():
    """What pip is asked for there: its own words and what setup.py requires of everybody."""
    setup = (ROOT / "setup.py").read_text("utf-8")
    required = re.search(r"^RUNTIME = \[(.*?)\]", setup, re.MULTILINE | re.DOTALL)
    asked = set(re.findall(r'"([\w-]+)', required.group(1)))
    lines = [line for line in blocks(JETSON) if line.startswith("pip install .")]
    plain = [line for line in lines if "torch" not in line]
    assert len(plain) == 2
    for line in plain:
        asked |= {re.match(r"[\w.-]+", word).group() for word in shlex.split(line)[2:]}
        assert '"numpy<2"' in line  # the system's OpenCV and TensorRT are built for it
    assert asked == {".", "numpy", "pillow", "faster-coco-eval", "rich", "av", "cuda-bindings"}


def test_the_page_and_the_doctor_ask_for_the_same_cuda_bindings():
    six, seven = (
        next(line for line in blocks(JETSON.partition(title)[2]) if line.startswith("pip install"))
        for title in ("JetPack 6.1 or later (", "JetPack 7 (")
    )
    assert f'"{cuda_requirement(Platform("aarch64", l4t=(36, 4)))}"' in six
    assert f'"{cuda_requirement(Platform("aarch64", l4t=(39, 2)))}"' in seven
    assert f'"{cuda_requirement(Platform("aarch64", l4t=(38, 4)))}"' in seven


def test_the_page_says_that_nothing_was_run_there():
    assert "None of this has been run on a Jetson yet" in JETSON


def templates():
    """Every text in the package, with "..." for what is filled in."""
    for file in (ROOT / "solo_edge").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
            elif isinstance(node, ast.JoinedStr):
                parts = [v.value if isinstance(v, ast.Constant) else "..." for v in node.values]
                yield "".join(parts)


def collapse(text):
    """One "..." for several that only spaces part, so that a page need not count them."""
    return re.sub(r"\.\.\.(\s*\.\.\.)+", "...", text)


def quoted_messages():
    page = (ROOT / "docs/troubleshooting.md").read_text("utf-8")
    return re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)


def test_every_message_of_the_troubleshooting_page_is_one_that_the_package_says():
    quoted, known = quoted_messages(), {collapse(text) for text in templates()}
    assert len(quoted) > 25
    assert not [message for message in quoted if message not in known]


def test_the_check_of_messages_sees_a_changed_one():
    known = {collapse(text) for text in templates()}
    assert "connection refused" in known
    assert "connection was refused" not in known
    assert collapse("a ... ... b") == "a ... b"


def test_rows_of_the_troubleshooting_page_are_complete():
    page = (ROOT / "docs/troubleshooting.md").read_text("utf-8")
    for row in re.findall(r"^\| `.*$", page, re.MULTILINE):
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        assert len(cells) == 3, row
        assert all(cells), row

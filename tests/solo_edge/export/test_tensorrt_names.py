"""Every name of TensorRT's that our code uses exists in all supported versions, with those parameters.

Nothing is run: the code is read with `ast` and compared with `tensorrt_names.json`.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
FILES = [
    path
    for folder in ("solo_edge/export", "solo_edge/runtime")
    for path in sorted((ROOT / folder).glob("tensorrt_*.py"))
    if path.stem != "tensorrt_rtx"  # that is about another library
]
NAMES = json.loads(Path(__file__).with_name("tensorrt_names.json").read_text("utf-8"))
# How objects of TensorRT's classes are called in these files, with "self._" before it or not.
CLASSES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "tensor": "ITensor",
    "parser": "OnnxParser",
    "problem": "ParserError",
    "config": "IBuilderConfig",
    "cache": "ITimingCache",
    "written": "ITimingCache",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "inspector": "EngineInspector",
}
REMEDY = "add it to CLASSES of make_tensorrt_names.py and run that"

Use = tuple[str, str]  # class, member; "" for the class itself


def used(node: ast.AST) -> Use | None:
    """The name of TensorRT's that an expression stands for, if it does."""
    if not isinstance(node, ast.Attribute):
        return None
    text = ast.unparse(node)
    if text.startswith("trt.__version__"):
        return None
    if match := re.fullmatch(r"trt\.(\w+)", text):
        return match[1], ""
    if match := re.fullmatch(r"trt\.(\w+)\.(\w+)", text):
        return match[1], match[2]
    match = re.fullmatch(rf"(?:self\._)?({'|'.join(CLASSES)})\.(\w+)", text)
    return (CLASSES[match[1]], match[2]) if match else None


def asked_for(function: ast.AST) -> set[Use]:
    """What a function asks `hasattr(trt.Class, "MEMBER")` for."""
    found = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "hasattr":
            kind, member = node.args
            if (use := used(kind)) and isinstance(member, ast.Constant):
                found.add((use[0], str(member.value)))
    return found


def uses(tree: ast.Module) -> Iterator[tuple[Use, ast.AST, ast.Call | None, bool]]:
    """Each use, where it is, the call that it is part of, and whether it is asked for first."""
    for top in tree.body:
        guards = asked_for(top) if isinstance(top, ast.FunctionDef) else set()
        calls = {id(node.func): node for node in ast.walk(top) if isinstance(node, ast.Call)}
        for node in ast.walk(top):
            if use := used(node):
                yield use, node, calls.get(id(node)), use in guards
            if isinstance(node, ast.ClassDef) and node.bases and (use := used(node.bases[0])):
                for method in node.body:
                    if isinstance(method, ast.FunctionDef) and method.name != "__init__":
                        yield (use[0], method.name), method, None, False


def description(use: Use, version: str) -> str | None:
    kind, member = use
    text = NAMES["classes"][kind].get(member or "__init__", "" if not member else None)
    return text.get(version) if isinstance(text, dict) else text


def fits(node: ast.AST, call: ast.Call | None, text: str) -> bool:
    """Whether a call, or the definition of a method, has parameters that `text` allows."""
    if call is None and not isinstance(node, ast.FunctionDef):
        return True
    if not text.startswith("("):
        return not text or call is None  # a class without recorded constructor; a property
    overloads = [[p for p in part.split(", ") if p] for part in re.findall(r"\(([^)]*)\)", text)]
    if call is None:
        # TensorRT passes them by position: their number counts, not their names.
        return len(node.args.args) - 1 in map(len, overloads)
    given, keywords = len(call.args), {keyword.arg for keyword in call.keywords}
    for overload in overloads:
        plain = [p.removesuffix("=") for p in overload]
        needed = {p for p in overload if not p.endswith("=")}
        possible = given <= len(plain) and keywords <= set(plain[given:])
        if possible and needed <= set(plain[:given]) | keywords:
            return True
    return False


def problems(source: str) -> list[str]:
    found = []
    for use, node, call, guarded in uses(ast.parse(source)):
        name = ".".join(use).rstrip(".")
        if use[0] not in NAMES["classes"]:
            found.append(f"{node.lineno}: the class {use[0]} is not recorded; {REMEDY}")
            continue
        if use[1] == "__init__":  # of a base class, called with self
            continue
        for version in NAMES["versions"]:
            text = description(use, version)
            if text is None:
                if not guarded:
                    found.append(f"{node.lineno}: TensorRT {version} has no {name}")
            elif not fits(node, call, text):
                found.append(f"{node.lineno}: TensorRT {version} has {name}{text}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_name_exists_in_every_version(path):
    assert problems(path.read_text("utf-8")) == []


def test_the_search_sees_what_is_used():
    found = {use for path in FILES for use, *_ in uses(ast.parse(path.read_text("utf-8")))}
    assert {
        ("Builder", ""),
        ("TensorIOMode", "INPUT"),
        ("IProgressMonitor", "step_complete"),
    } <= found
    assert ("IBuilderConfig", "progress_monitor") in found
    assert ("IExecutionContext", "execute_async_v3") in found
    assert ("ITimingCache", "combine") in found
    assert len(found) > 80


@pytest.mark.parametrize(
    ("planted", "expected"),
    [
        ("config.set_flag(trt.BuilderFlag.FP16)", "TensorRT 11.4.0.106 has no BuilderFlag.FP16"),
        ("config.set_flag(trt.BuilderFlag.MONITOR_MEMORY)", "10.3.0 has no BuilderFlag.MONITOR"),
        ("config.int8_calibrator = None", "11.4.0.106 has no IBuilderConfig.int8_calibrator"),
        ("builder.create_netwrok()", "TensorRT 10.3.0 has no Builder.create_netwrok"),
        ("builder.create_network(1, 2)", "TensorRT 10.3.0 has Builder.create_network(flags=)"),
        ("builder.create_network(flag=1)", "has Builder.create_network(flags=)"),
        ("builder.build_serialized_network(network)", "build_serialized_network(network, config)"),
        ("builder.build_serialized_network(network, config, None)", "10.3.0 has Builder.build_ser"),
        ("trt.Builder()", "has Builder(logger)"),
        ("engine.num_io_tensors()", "has ICudaEngine.num_io_tensorsproperty"),
        ("self._context.run()", "has no IExecutionContext.run"),
        ("trt.Refitter(engine, logger)", "the class Refitter is not recorded"),
        (
            "class A(trt.IProfiler):\n    def report_time(self, layer, ms): ...",
            "has no IProfiler.report_time",
        ),
        (
            "class A(trt.IProfiler):\n    def report_layer_time(self, ms): ...",
            "has IProfiler.report_layer_time(layer_name, ms)",
        ),
        # Asked for in another function.
        (
            "def f():\n    hasattr(trt.BuilderFlag, 'FP16')\ndef g():\n    trt.BuilderFlag.FP16",
            "TensorRT 11.4.0.106 has no BuilderFlag.FP16",
        ),
    ],
)  # fmt: skip
def test_a_planted_mistake_is_found(planted, expected):
    found = problems(planted)
    assert any(expected in problem for problem in found), found


@pytest.mark.parametrize(
    "text",
    [
        "def f():\n    if hasattr(trt.BuilderFlag, 'FP16'):\n        config.set_flag(trt.BuilderFlag.FP16)",
        "builder.build_serialized_network(network, config=config)",
        "class A(trt.IProfiler):\n    def report_layer_time(self, layer_name, ms): ...",
        "print(trt.__version__)",
    ],
)
def test_what_is_right_is_left_alone(text):
    assert problems(text) == []


def test_the_versions_are_those_that_we_promise():
    assert NAMES["versions"] == ["10.3.0", "10.13.3.9", "10.16.1.11", "11.4.0.106"]


def test_the_lists_are_those_of_the_bindings(shared):
    """Compared with names that were taken down independently."""
    for version in NAMES["versions"]:
        full = json.loads((shared / f"prototypes/tensorrt_names/{version}.json").read_text())
        for kind in NAMES["classes"]:
            members = {m for m in NAMES["classes"][kind] if description((kind, m), version)}
            assert members - {"__init__"} == set(full.get(kind) or []) - {"__init__"}

#!/usr/bin/env python3
"""Make `tensorrt_names.json`: what TensorRT's Python module offers in the versions that we support.

    python tests/solo_edge/export/make_tensorrt_names.py

Run it again when our code touches another class, or for another version. It downloads NVIDIA's Python
bindings (small wheels on PyPI) into a temporary folder, links them against empty libraries made with
the system's C compiler, imports them and writes down names and parameters. Nothing of NVIDIA's is kept.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

VERSIONS = {  # oldest and newest that we support, and those of JetPack 7 in between
    "10.3.0": "tensorrt-cu12-bindings",
    "10.13.3.9": "tensorrt-cu13-bindings",
    "10.16.1.11": "tensorrt-cu13-bindings",
    "11.4.0.106": "tensorrt-cu13-bindings",
}
CLASSES = (
    *("Builder", "BuilderFlag", "DataType", "DeviceType", "EngineInspector", "ErrorCode"),
    *("ExecutionContextAllocationStrategy", "HardwareCompatibilityLevel", "IBuilderConfig"),
    *("ICudaEngine", "IExecutionContext", "IHostMemory", "ILayer", "ILogger", "INetworkDefinition"),
    *("IOutputAllocator", "IProfiler", "IProgressMonitor", "IRuntimeConfig", "ITensor"),
    *("ITimingCache", "LayerInformationFormat", "MemoryPoolType", "NetworkDefinitionCreationFlag"),
    *("OnnxParser", "OnnxParserFlag", "ParserError", "ProfilingVerbosity", "Runtime"),
    *("TensorIOMode", "TensorLocation"),
)
OUTPUT = Path(__file__).with_name("tensorrt_names.json")

# Everything that the bindings want of TensorRT's libraries in order to be imported.
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
FUNCTIONS = (
    *("createInferBuilder_INTERNAL", "createInferRuntime_INTERNAL", "createInferRefitter_INTERNAL"),
    *("createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL"),
    *("getPluginRegistry", "getBuilderPluginRegistry", "initLibNvInferPlugins"),
    "getNvOnnxParserVersion",
)


def main() -> None:
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for version, package in VERSIONS.items():
            place = Path(folder, version)
            download(package, version, place)
            make_libraries(version, place / "lib")
            found[version] = in_another_process(place)
            print(f"{package} {version}: {sum(map(len, found[version].values()))} names")
    text = json.dumps(merge(found), indent=1)
    # What differs between versions on one line: a change then shows as one changed line.
    text = re.sub(r'\{\s*("\d[^{}]*?)\s*\}', lambda match: "{" + squeeze(match[1]) + "}", text)
    OUTPUT.write_text(text + "\n", "utf-8")


def squeeze(text: str) -> str:
    return re.sub(r"\s*\n\s*", " ", text)


def download(package: str, version: str, place: Path) -> None:
    """Unpack the wheel of this Python in `place`."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*pip, "--dest", str(place), f"{package}=={version}"], check=True)
    (wheel,) = place.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)


def make_libraries(version: str, place: Path) -> None:
    """Shared libraries of the right names whose functions return a null pointer."""
    place.mkdir()
    source = place / "empty.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS))
    for library in LIBRARIES:
        name = f"lib{library}.so.{version.partition('.')[0]}"
        compiler = [os.environ.get("CC", "cc"), "-shared", "-fPIC", f"-Wl,-soname,{name}"]
        subprocess.run([*compiler, "-o", str(place / name), str(source)], check=True)


def in_another_process(place: Path) -> dict[str, dict[str, str]]:
    """`describe_module` where the loader finds the libraries."""
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(place / "lib"),
        "PYTHONPATH": str(place),
    }
    command = [sys.executable, __file__, "--describe"]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    described: dict[str, dict[str, str]] = json.loads(done.stdout)
    return described


def describe_module() -> dict[str, dict[str, str]]:
    """class -> member -> "value" (of an enumeration), "property", or its parameters."""
    import tensorrt_bindings as trt

    described = {}
    for name in CLASSES:
        if (kind := getattr(trt, name, None)) is not None:
            members = {member: describe(kind, member) for member in dir(kind)}
            described[name] = {member: text for member, text in members.items() if text}
    return described


def describe(kind: Any, name: str) -> str | None:
    """How `name` of the class `kind` is used; None if it is none of TensorRT's own."""
    member = getattr(kind, name)
    if hasattr(kind, "__members__"):
        return "value" if name in kind.__members__ else None
    if name == "__init__":
        return signatures(name, member.__doc__)
    if name.startswith("_"):
        return None
    if isinstance(member, property):
        return "property"
    if callable(member) and not isinstance(member, type):
        return signatures(name, member.__doc__)
    return "value"


def signatures(name: str, doc: str | None) -> str | None:
    """`(network, config)`, with `=` behind what may be left out and `|` between overloads."""
    text = doc or ""
    lines = re.findall(rf"^(?:\d+\. )?{re.escape(name)}\((self: .*)\) -> ", text, re.MULTILINE)
    return " | ".join(f"({', '.join(parameters(line))})" for line in lines) or None


def parameters(text: str) -> list[str]:
    """Names in a signature as pybind11 writes it; the first, self, is left out."""
    depth, start, parts = 0, 0, []
    for i, character in enumerate(text):
        depth += (character in "([{<") - (character in ")]}>" and text[i - 1] != "-")
        if character == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    parts.append(text[start:])
    return [
        part.partition(":")[0].strip() + ("=" if " = " in part else "")
        for part in parts[1:]
        if part
    ]


def merge(found: dict[str, dict[str, dict[str, str]]]) -> dict[str, Any]:
    """class -> member -> its description, or version -> description where not all have the same."""
    merged: dict[str, Any] = {"versions": list(found), "classes": {}}
    for name in CLASSES:
        members: dict[str, dict[str, str]] = {}
        for version, classes in found.items():
            for member, text in classes.get(name, {}).items():
                members.setdefault(member, {})[version] = text
        merged["classes"][name] = {m: unless_all_the_same(t) for m, t in sorted(members.items())}
    return merged


def unless_all_the_same(texts: dict[str, str]) -> dict[str, str] | str:
    different = set(texts.values())
    return different.pop() if len(texts) == len(VERSIONS) and len(different) == 1 else texts


if __name__ == "__main__":
    if sys.argv[1:] == ["--describe"]:
        json.dump(describe_module(), sys.stdout)
    else:
        main()

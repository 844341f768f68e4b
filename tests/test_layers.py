"""Imports go one way, heavy packages stay in the files named for them, and nothing dangerous is called.

All of it is read from the source with `ast`; nothing is imported.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {
    "solo_edge": "solo_edge",
    "kernels": "solo_edge.kernels",
    "calibration": "solo_edge.calibration",
}

# Layer -> layers it may import from, besides itself. A module belongs to the layer of its longest prefix.
LAYERS = {
    "solo_edge.errors": "",
    "solo_edge.closing": "",
    "solo_edge.files": "errors",
    "solo_edge.config": "errors",
    "solo_edge.preprocess": "config errors",
    "solo_edge.kernels": "errors files",
    "solo_edge.instances": "kernels preprocess errors draw",
    "solo_edge.draw": "instances kernels errors",
    "solo_edge.images": "errors files",
    "solo_edge.postprocess": "kernels instances preprocess config errors",
    "solo_edge.data": "instances preprocess images config files errors targets kernels",
    "solo_edge.models": "config errors",
    "solo_edge.targets": "config errors kernels",
    "solo_edge.losses": "models targets config errors kernels",
    "solo_edge.importers": "models config files errors",
    "solo_edge.checkpoint": "models importers preprocess config files errors",
    "solo_edge.import_checkpoint": "checkpoint importers models config files errors",
    "solo_edge.json_fields": "errors",
    "solo_edge.manifest": "json_fields preprocess config files errors",
    "solo_edge.portable_folder": "manifest files errors",
    "solo_edge.export": (
        "models checkpoint postprocess manifest preprocess config files errors kernels runtime images"
        " environment calibration portable_folder"
    ),
    "solo_edge.runtime": (
        "manifest portable_folder postprocess instances preprocess config files errors kernels checkpoint"
        " models images closing"
    ),
    "solo_edge.calibration": "data preprocess images config files errors",
    "solo_edge.suggest": "suggest_figures data config errors",
    "solo_edge.suggest_figures": "data preprocess targets config",
    "solo_edge.suggest_chart": "suggest config files errors",
    "solo_edge.evaluate": "data instances files errors",
    "solo_edge.optim": "config models",
    "solo_edge.run_folder": "checkpoint config files errors",
    "solo_edge.accuracy_gate": "calibration data evaluate export errors",
    "solo_edge.sensitivity": (
        "accuracy_gate calibration checkpoint config data evaluate export report runtime files errors"
    ),
    "solo_edge.qat": "qat_plan calibration checkpoint export models files errors",
    "solo_edge.qat_plan": "calibration export models errors",
    "solo_edge.distill": "losses checkpoint config errors models",
    "solo_edge.train": (
        "distill optim run_folder evaluate data losses targets checkpoint importers models postprocess"
        " instances preprocess config files errors qat calibration"
    ),
    "solo_edge.tracking": "instances kernels errors",
    "solo_edge.zones": "instances kernels draw errors",
    "solo_edge.video": (
        "tracking zones data runtime instances draw images preprocess config files errors closing"
    ),
    "solo_edge.predict": "video runtime instances draw images data preprocess config files errors",
    "solo_edge.environment": "",
    "solo_edge.doctor": "environment export runtime manifest",
    "solo_edge.inspection": "manifest portable_folder errors",
    "solo_edge.cold_start": "runtime images errors",
    "solo_edge.report": "cold_start files errors",
    "solo_edge.benchmark": "checkpoint report cold_start environment evaluate video runtime data errors",
    "solo_edge.quantize": (
        "calibration data export checkpoint runtime evaluate manifest files errors"
    ),
    "solo_edge.cli": (
        "tracking zones quantize accuracy_gate sensitivity train run_folder evaluate benchmark report data"
        " export runtime predict video inspection doctor manifest images environment files config errors"
        " kernels calibration portable_folder import_checkpoint importers suggest suggest_chart"
    ),
    "solo_edge.__main__": "cli",
    # The public names; what they need is imported when they are called.
    "solo_edge": "errors instances postprocess checkpoint runtime images models",
}

# Heavy package -> files that may import it at module level. Elsewhere it is imported inside functions.
HEAVY = {
    "torch": [
        "solo_edge/models/*.py",
        "solo_edge/importers/*.py",
        "solo_edge/export/*.py",
        "solo_edge/runtime/graphs.py",
        "solo_edge/runtime/torch_runner.py",
        "solo_edge/data/loader.py",
        "solo_edge/checkpoint.py",
        "solo_edge/losses.py",
        "solo_edge/optim.py",
        "solo_edge/run_folder.py",
        "solo_edge/targets.py",
        "solo_edge/train/*.py",
        "solo_edge/distill.py",
        "solo_edge/qat*.py",
        *("calibration/plausibility.py", "calibration/probes.py"),
        "kernels/reference*.py",
        "kernels/_triton/*.py",
    ],
    "torchvision": [],
    "timm": ["solo_edge/models/backbone.py"],
    "triton": ["kernels/_triton/*.py"],
    "tensorrt": ["solo_edge/export/tensorrt_builder.py", "solo_edge/runtime/tensorrt_runner.py"],
    "tensorrt_rtx_bindings": [],
    "pycuda": ["solo_edge/runtime/pycuda_driver.py"],
    "cuda": ["solo_edge/runtime/cuda_bindings_driver.py"],
    "onnx": [
        *(
            f"calibration/{name}.py"
            for name in ("automatic", "bias_correction", "collect", "layers", "probes", "session")
        ),
        *(f"calibration/{name}.py" for name in ("qdq", "qdq_rules", "tensorrt10")),
        *("solo_edge/export/coordinates.py", "solo_edge/export/group_norm.py"),
    ],
    "onnxscript": [],
    "onnxruntime": [],
    "openvino": [],
    "cv2": [],
    "av": [],
    "PIL": ["solo_edge/images.py"],
    "safetensors": ["solo_edge/checkpoint.py"],
    "faster_coco_eval": [],
    "rich": [],
    "aiohttp": ["solo_edge/video/web/*.py"],
    "yaml": [],
    "supervision": [],
    "scipy": [],
}

# What runs on the device, where torch, triton, timm and onnx are not installed.
RUNTIME_PATH = [
    *(f"solo_edge/{name}.py" for name in ("__init__", "__main__", "errors", "files", "closing")),
    "solo_edge/config.py",
    *(f"solo_edge/{name}.py" for name in ("preprocess", "instances", "images", "manifest")),
    *(f"solo_edge/{name}.py" for name in ("draw*", "tracking/*", "zones*")),
    *(f"solo_edge/{name}.py" for name in ("postprocess", "predict", "evaluate", "benchmark")),
    *(f"solo_edge/{name}.py" for name in ("report", "cold_start", "environment/*", "doctor/*")),
    *("solo_edge/portable_folder.py", "solo_edge/export/finish.py"),
    *(
        f"solo_edge/export/tensorrt_{name}.py"
        for name in ("builder", "cache", "parser", "progress")
    ),
    *("solo_edge/inspection.py", "solo_edge/cli/*.py", "solo_edge/video/*.py"),
    *(
        f"solo_edge/runtime/{name}.py"
        for name in (
            "base",
            "engine",
            "openvino_runner",
            "onnx_runner",
            "device_kernels",
            "frame_pipeline",
            "kernel_folder",
            "tensorrt_runner",
            "*_driver",
        )
    ),
    *("kernels/__init__.py", "kernels/host.py", "kernels/candidates.py", "kernels/resize.py"),
]
NOT_ON_THE_DEVICE = {"torch", "torchvision", "triton", "timm", "onnx", "onnxscript", "safetensors"}


@dataclass(frozen=True)
class Import:
    module: str  # the full dotted name; for `from a import b` it is a.b if that is a module of ours, else a
    line: int
    at_module_level: bool


@dataclass(frozen=True)
class Source:
    file: str  # path in the repository
    module: str
    tree: ast.Module

    def imports(self) -> list[Import]:
        return IMPORTS[self.module]


def imports_of(node: ast.AST, *, at_module_level: bool = True) -> Iterator[Import]:
    """All imports in `node` but those for type checkers alone."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(alias.name, node.lineno, at_module_level)
    elif isinstance(node, ast.ImportFrom):
        base = "." * node.level + (node.module or "")
        for alias in node.names:
            name = f"{base}.{alias.name}"
            yield Import(name if name in MODULES else base, node.lineno, at_module_level)
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        at_module_level = False
    typing_only = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
    for child in node.orelse if typing_only else ast.iter_child_nodes(node):
        yield from imports_of(child, at_module_level=at_module_level)


def _find_files() -> list[tuple[str, str]]:
    """(path in the repository, module name) of every file of the package; links are not followed."""
    found = []
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            relative = path.relative_to(ROOT / folder)
            if folder == "solo_edge" and relative.parts[0] in ("kernels", "calibration"):
                continue
            parts = [package, *relative.with_suffix("").parts]
            name = ".".join(parts).removesuffix(".__init__")
            found.append((str(path.relative_to(ROOT)), name))
    return found


FILES = _find_files()
MODULES = {module for _, module in FILES}
SOURCES = [
    Source(file, module, ast.parse((ROOT / file).read_text("utf-8"), file))
    for file, module in FILES
]

IMPORTS = {source.module: list(imports_of(source.tree)) for source in SOURCES}


def layer_of(module: str) -> str:
    return max(
        (name for name in LAYERS if module == name or module.startswith(name + ".")), key=len
    )


def matches(file: str, patterns: list[str]) -> bool:
    return any(fnmatch(file, pattern) for pattern in patterns)


def test_the_whole_package_is_read():
    assert {"solo_edge.cli", "solo_edge.kernels", "solo_edge.errors"} <= MODULES
    assert len(SOURCES) > 30


def test_imports_are_absolute():
    wrong = [f"{s.file}:{i.line}" for s in SOURCES for i in s.imports() if i.module.startswith(".")]
    assert not wrong


def test_layers_import_downwards():
    wrong = []
    for source in SOURCES:
        layer = layer_of(source.module)
        allowed = {layer, *(f"solo_edge.{name}" for name in LAYERS[layer].split())}
        for imported in source.imports():
            if imported.module == "solo_edge":  # for __version__ and the place of the package
                continue
            if (
                imported.module.startswith("solo_edge.")
                and layer_of(imported.module) not in allowed
            ):
                wrong.append(f"{source.file}:{imported.line} {layer} -> {imported.module}")
    assert not wrong, "\n" + "\n".join(wrong)


def test_every_module_has_a_layer_of_its_own():
    # Only the package's own file may fall through to the layer "solo_edge".
    lost = [m for m in MODULES if layer_of(m) == "solo_edge" and m != "solo_edge"]
    assert not lost, f"say in LAYERS what {lost} may import"


def test_nothing_imports_tests_benchmarks_or_the_bare_folders():
    forbidden = {"tests", "benchmarks", "kernels", "calibration"}
    wrong = [
        f"{s.file}:{i.line} {i.module}"
        for s in SOURCES
        for i in s.imports()
        if i.module.partition(".")[0] in forbidden
    ]
    assert not wrong


def test_heavy_packages_are_imported_only_in_the_files_named_for_them():
    wrong = [
        f"{s.file}:{i.line} {i.module}"
        for s in SOURCES
        for i in s.imports()
        if i.at_module_level and not matches(s.file, HEAVY.get(i.module.partition(".")[0], ["*"]))
    ]
    assert not wrong, "\n" + "\n".join(wrong)


def test_the_runtime_path_needs_no_torch():
    """Neither a file of it nor anything that it imports at module level, however far down."""
    on_path = [s for s in SOURCES if matches(s.file, RUNTIME_PATH)]
    assert len(on_path) > 20
    wrong = [way for source in on_path if (way := way_to_torch(source.module))]
    assert not wrong, "\n" + "\n".join(wrong)


def way_to_torch(start: str) -> str | None:
    """The chain of module-level imports from a module to a package that the device lacks."""
    ways, seen = [(start, start)], {start}
    for module, way in ways:
        for imported in IMPORTS[module]:
            name = imported.module
            if not imported.at_module_level or name in seen:
                continue
            if name.partition(".")[0] in NOT_ON_THE_DEVICE:
                return f"{way} -> {name}"
            if name in IMPORTS:
                seen.add(name)
                ways.append((name, f"{way} -> {name}"))
    return None


def test_the_way_to_torch_is_found():
    assert way_to_torch("solo_edge.train") is not None
    assert way_to_torch("solo_edge.errors") is None


def dangerous(tree: ast.AST) -> Iterator[str]:
    """What could run code from data or hand text to a shell."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
            )
            for name in names:
                if name.partition(".")[0] in ("pickle", "cPickle", "dill", "marshal", "shelve"):
                    yield f"{node.lineno} import {name}"
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if called in ("eval", "exec", "os.system", "os.popen", "subprocess.getoutput"):
                yield f"{node.lineno} {called}"
            if keywords.get("shell", "False") != "False":
                yield f"{node.lineno} shell="
            if called == "torch.load" and keywords.get("weights_only") != "True":
                yield f"{node.lineno} torch.load without weights_only=True"
            if keywords.get("allow_pickle", "False") != "False":
                yield f"{node.lineno} allow_pickle="


def test_nothing_dangerous_is_called():
    wrong = [f"{s.file}:{what}" for s in SOURCES for what in dangerous(s.tree)]
    assert not wrong


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import loads",
        "def f():\n    import marshal",
        "subprocess.run('ls', shell=True)",
        "subprocess.run('ls', shell=flag)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "os.system('ls')",
        "eval(text)",
    ],
)
def test_the_check_for_danger_sees_it(text):
    assert list(dangerous(ast.parse(text)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import torch", [True]),
        ("try:\n    import torch\nexcept ImportError:\n    torch = None", [True]),
        ("class A:\n    import torch", [True]),
        ("def f():\n    import torch", [False]),
        ("if TYPE_CHECKING:\n    import torch", []),
        ("if TYPE_CHECKING:\n    import a\nelse:\n    import torch", [True]),
    ],
)
def test_the_check_knows_where_an_import_stands(text, expected):
    found = [i.at_module_level for i in imports_of(ast.parse(text))]
    assert found == expected

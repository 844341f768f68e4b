"""Compiling for GPUs that are not there: what is written, what it costs, and what is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import math
import re
import signal
import subprocess

import pytest

from solo_edge.errors import ResourceError, UsageError
from solo_edge.kernels import aot, aot_report
from solo_edge.kernels._triton import KERNEL_MODULES
from solo_edge.kernels.aot_folder import GRIDS, KERNELS_FILE, build_kernels
from solo_edge.kernels.aot_targets import TARGETS, Target
from solo_edge.kernels.plan import Sizes, Thresholds, matrix_nms_plan, postprocess_plan
from solo_edge.kernels.preprocess import FrameSizes, preprocess_plan
from solo_edge.kernels.tiles import Tiles

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)
CELLS = sum(size * size for size in (40, 36, 24, 16, 12))
FULL_SIZE = Sizes(1, 80, CELLS, 128, 112, 192, 500, 100)
SMALL = Sizes(2, 3, 100, 16, 9, 13, 16, 5)  # compiles in a second or two
ORIN = TARGETS["sm_87"]

PTX = """
.version 8.0
.target sm_87
.visible .entry some_kernel(
\t.param .u64 .ptr .global .align 1 some_kernel_param_0,
\t.param .u32 some_kernel_param_1,
\t.param .u64 .ptr .global .align 1 some_kernel_param_2,
\t.param .u64 .ptr .global .align 1 some_kernel_param_10
)
.reqntid 128
{
\tld.param.b64 \t%rd1, [some_kernel_param_0];
\tld.param.b32 \t%r1, [some_kernel_param_10];
\tret;
}
"""


def overlap_of(plan):
    return next(each for each in plan.launches if each.kernel == "mask_overlap_kernel")


def small_plan(dtype="float16"):
    return postprocess_plan(SMALL, Thresholds(), Tiles(), dtype=dtype)


# PTX


def test_hidden_parameters_go_and_the_rest_stays():
    used = PTX.replace("[some_kernel_param_10]", "[some_kernel_param_1]")
    stripped = aot.strip_hidden_parameters(used, "some_kernel", 2)
    assert re.findall(r"param_\d+(?=,?\n)", stripped) == ["param_0", "param_1"]
    assert stripped.endswith(used[used.index(".reqntid") :])
    assert stripped.startswith(used[: used.index("\t.param")])
    assert aot.strip_hidden_parameters(stripped, "some_kernel", 2) == stripped


def test_a_hidden_parameter_that_is_used_is_refused():
    with pytest.raises(ValueError, match="uses the hidden parameter some_kernel_param_10"):
        aot.strip_hidden_parameters(PTX, "some_kernel", 3)


@pytest.mark.parametrize(("entry", "visible"), [("some_kernel", 5), ("another_kernel", 1)])
def test_parameters_that_are_not_there_are_refused(entry, visible):
    with pytest.raises(ValueError, match=f"{visible} are expected"):
        aot.strip_hidden_parameters(PTX, entry, visible)


# What is compiled


def test_a_launch_says_all_that_its_code_depends_on():
    plan = postprocess_plan(FULL_SIZE, Thresholds(), Tiles(), dtype="float16")
    launch = next(each for each in plan.launches if each.kernel == "dynamic_conv_pack_kernel")
    found = aot.specialize(plan, launch)
    types = dict(found.types)
    assert types["mask_features"] == types["chosen_kernels"] == "*fp16"
    assert (types["words"], types["partial_sums"], types["valid_count"]) == (
        "*u32",
        "*fp32",
        "*i32",
    )
    assert (types["pixels"], types["mask_logit"]) == ("i32", "fp32")
    # 112 x 192 pixels and every address are divisible by 16, 500 candidates are not.
    assert {"pixels", "word_count", "mask_features", "words"} <= set(found.divisible)
    assert not {"candidates", "parts", "mask_logit"} & set(found.divisible)
    assert dict(found.constants)["CHANNELS"] == 128
    assert found == aot.specialize(plan, dataclasses.replace(launch, grid=(9, 9, 9)))


def test_sizes_beyond_32_bits_are_refused():
    huge = dataclasses.replace(SMALL, height=100_000, width=100_000)
    plan = postprocess_plan(huge, Thresholds(), Tiles())
    with pytest.raises(
        UsageError, match="pixels of dynamic_conv_pack_kernel is 10000000000, which"
    ):
        [aot.specialize(plan, launch) for launch in plan.launches]


def test_the_gate_holds_every_kernel_that_a_plan_can_name():
    launches = [each for plan in aot_report.gate_plans(FULL_SIZE) for each in plan.launches]
    assert {each.kernel for each in launches} == set(KERNEL_MODULES)


@pytest.mark.parametrize("sizes", [FULL_SIZE, SMALL])
def test_the_grid_formulas_give_the_grids(sizes):
    colours = {"pixel_mean": (1.0, 2.0, 3.0), "pixel_std": (4.0, 5.0, 6.0)}
    before = preprocess_plan(FrameSizes(4 * sizes.height, 4 * sizes.width), Tiles(), **colours)
    after = postprocess_plan(sizes, Thresholds(), Tiles())
    for launch in (*before.launches, *after.launches):
        numbers = {n: v for n, v in launch.arguments.items() if not isinstance(v, str)}
        names = {**launch.constants, **numbers, "batch": sizes.batch, "ceil": math.ceil}
        assert eval(GRIDS[launch.kernel], {}, names) == launch.grid, launch.kernel


# Compilers that fail


@needs_triton
def test_a_compiler_that_dies_is_one_line():
    plan = small_plan()
    reckless = Target(87, 70, 70)  # LLVM ends the process
    with pytest.raises(ResourceError) as caught:
        aot.compile_kernels([aot.specialize(plan, plan.launches[0])], reckless)
    line = str(caught.value)
    assert line.startswith("Triton cannot compile collect_candidates_kernel for sm_87 (exit code")
    assert "LLVM ERROR: PTX version 7.0 does not support" in line
    assert len(line) < 500


def test_a_compiler_that_is_killed_is_one_line():
    log = "LLVM ERROR: no such register\nPLEASE submit a bug report\n#0 0x1234\n"
    started = [{"started": "one"}, {"entry": "one"}, {"started": "two"}]
    error = aot._compile_error(ORIN, started, -signal.SIGABRT, log)
    assert str(error).startswith(
        "Triton cannot compile two for sm_87 (killed by SIGABRT, LLVM ERROR: no such register);"
    )
    assert "anything for sm_87 (exit code 3)" in str(aot._compile_error(ORIN, [], 3, ""))


@needs_triton
def test_a_kernel_that_does_not_compile_is_one_line():
    plan = small_plan()
    right = aot.specialize(plan, overlap_of(plan))
    wrong = dataclasses.replace(right, constants=(*right.constants, ("BLOCK_Q", 1)))
    with pytest.raises(
        ResourceError, match=r"mask_overlap_kernel for sm_87 .*not agree on BLOCK_Q"
    ):
        aot.compile_kernels([wrong], ORIN)
    odd = dict(right.constants) | {"BLOCK_W": 17}
    wrong = dataclasses.replace(right, constants=tuple(odd.items()))
    with pytest.raises(
        ResourceError, match="cannot compile mask_overlap_kernel for sm_87"
    ) as caught:
        aot.compile_kernels([wrong], ORIN)
    assert "\n" not in str(caught.value)


def test_without_triton_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    plan = small_plan()
    with pytest.raises(
        ResourceError, match="needs Triton, which is not installed; pip install triton"
    ):
        aot.compile_kernels([aot.specialize(plan, plan.launches[0])], ORIN)


# The folder


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(folder, its description, the plan)"""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    folder = tmp_path_factory.mktemp("aot") / "orin.kernels"
    plan = small_plan()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")  # with it nothing could be compiled
        patch.setenv("TRITON_KERNEL_DUMP", "1")
        assert build_kernels(folder, {"postprocess": plan}, SMALL, ORIN) == folder
    return folder, json.loads((folder / KERNELS_FILE).read_text()), plan


def test_the_description_is_the_plan(built):
    _, values, plan = built
    assert values["format"] == 2
    assert (values["target"], values["dtype"]) == ("sm_87", "float16")
    assert values["sizes"] == dataclasses.asdict(SMALL)
    assert set(values["versions"]) == {"solo-edge", "triton", "ptxas"}
    assert list(values["plans"]) == ["postprocess"]
    written_plan = values["plans"]["postprocess"]
    names = (written_plan["inputs"], written_plan["outputs"])
    assert names == (list(plan.inputs), list(plan.outputs))
    assert written_plan["buffers"] == json.loads(
        json.dumps({name: dataclasses.asdict(buffer) for name, buffer in plan.buffers.items()})
    )
    launches = written_plan["launches"]
    assert [values["kernels"][each["kernel"]]["entry"] for each in launches] == [
        launch.kernel for launch in plan.launches
    ]
    for launch, written in zip(plan.launches, launches, strict=True):
        assert written["grid"] == list(launch.grid)
        arguments = {
            each["name"]: each["buffer" if each["kind"] == "pointer" else "value"]
            for each in written["arguments"]
        }
        assert arguments == launch.arguments


def test_every_file_is_named_with_its_digest(built):
    folder, values, _ = built
    variants = [each for kernel in values["kernels"].values() for each in kernel["variants"]]
    files = {each["file"]: each["sha256"] for each in variants}
    assert {path.name for path in folder.iterdir()} == {KERNELS_FILE, *files}
    for name, digest in files.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    for kernel in values["kernels"].values():
        code, native, portable = kernel["variants"]
        assert code["file"].endswith(".sm_87.cubin")
        assert (native["compute_capability"], native["newer_too"]) == ("8.7", False)
        assert native["ptx_version"] == "8.0"
        assert (portable["compute_capability"], portable["newer_too"]) == ("8.0", True)
        assert portable["ptx_version"] == "7.8"
        text = (folder / native["file"]).read_text()
        assert f".reqntid {native['block'][0]}\n" in text
        assert ".version 8.0" in text
        assert ".file" not in text  # no path of this machine


def test_ptx_and_machine_code_have_exactly_the_arguments(built):
    folder, values, _ = built
    for launch in values["plans"]["postprocess"]["launches"]:
        kernel = values["kernels"][launch["kernel"]]
        kinds = [each["kind"] for each in launch["arguments"]]
        types = {"pointer": "u64", "int32": "u32", "float32": "f32"}
        code, *texts = kernel["variants"]
        for text in texts:
            ptx = (folder / text["file"]).read_text()
            assert re.findall(r"\.param \.(\w+) .*_param_\d+,?\n", ptx.replace(".ptr", "")) == [
                types[kind] for kind in kinds
            ]
        # The machine code's own list, last parameter first.
        listing = subprocess.run(
            [aot.triton_tool("cuobjdump"), "-elf", folder / code["file"]],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        sizes = re.findall(r"Ordinal : 0x\w+\s+Offset\s+: 0x\w+\s+Size\s+: 0x(\w)", listing)
        assert sizes[::-1] == [{"pointer": "8"}.get(kind, "4") for kind in kinds]


def test_only_a_folder_of_kernels_is_replaced(built, tmp_path):
    _, _, plan = built
    other = tmp_path / "other"
    other.mkdir()
    (other / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match=r"holds 'letter.txt', which is no kernel; it is left"):
        build_kernels(other, {"postprocess": plan}, SMALL, ORIN)
    with pytest.raises(UsageError, match="there is something here that is no folder of kernels"):
        build_kernels(other / "letter.txt", {"postprocess": plan}, SMALL, ORIN)
    assert (other / "letter.txt").read_text() == "dear"


@needs_triton
def test_a_folder_that_cannot_be_built_leaves_the_old_one(built, tmp_path, monkeypatch):
    _, _, plan = built
    out = tmp_path / "old.kernels"
    out.mkdir()
    (out / KERNELS_FILE).write_text("{}")

    def refuse(kernel, target):
        raise ResourceError("ptxas refuses")

    monkeypatch.setattr("solo_edge.kernels.aot_folder.assemble", refuse)
    one = dataclasses.replace(plan, launches=plan.launches[2:3])
    with pytest.raises(ResourceError):
        build_kernels(out, {"postprocess": one}, SMALL, ORIN)
    assert [path.name for path in tmp_path.iterdir()] == ["old.kernels"]
    assert (out / KERNELS_FILE).read_text() == "{}"


# The gate

LISTING = """
\tcode for sm_87
\t\tFunction : some_kernel
\t.headerflags\t@"EF_CUDA_SM87"
        /*0000*/                   MOV R1, c[0x0][0x28] ;                /* 0x00000a0000017a02 */
        /*0010*/              @!P0 LDGSTS.E.BYPASS.128 [R61], [R4.64] ;  /* 0x04000000043d7fae */
        /*0020*/                   HMMA.16816.F32 R4, R8, R12, R4 ;      /* 0x0 */
        /*0030*/          @UP1     UPOPC UR4, UR5 ;                      /* 0x0 */
        /*0040*/                   STL [R1], R3 ;                        /* 0x0 */
        /*0050*/               @P3 LDL.64 R2, [R1+0x8] ;                 /* 0x0 */
        /*0060*/                   STG.E [R2], R5 ;                      /* 0x0 */
"""


def test_instructions_are_counted():
    assert aot_report.count_instructions(LISTING) == {
        "matrix": 1,
        "async copy": 1,
        "popcount": 1,
        "local memory": 2,
    }


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ()),
        ({"shared_bytes": 48 * 1024 + 1}, ("over 48 KB of shared memory",)),
        ({"spill_bytes": 8, "stack_bytes": 8}, ("spills",)),
        ({"stack_bytes": 8}, ("uses a stack",)),
        ({"counts": {"popcount": 1, "local memory": 3}}, ("uses a stack",)),
        ({"counts": {}}, ("no popcount",)),
        ({"counts": None}, ()),
    ],
)
def test_a_row_says_which_limit_it_breaks(changes, expected):
    plan = matrix_nms_plan(SMALL, Thresholds(), Tiles())
    overlap = aot.specialize(plan, overlap_of(plan))
    fine = aot_report.Row(overlap, "sm_87", "sm_87", 128, 40, 48 * 1024, 0, 0, {"popcount": 4})
    row = dataclasses.replace(fine, **changes)
    assert row.problems == expected
    assert len(aot_report.cells(row)) == len(aot_report.HEADER)
    assert aot_report.cells(row)[-1] == (", ".join(expected) or "ok")


def gate_targets():
    slow = pytest.mark.slow
    names = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_110", "sm_120")
    return ["sm_87", *(pytest.param(name, marks=slow) for name in names)]


@needs_triton
@pytest.mark.parametrize("name", gate_targets())
def test_every_kernel_compiles_within_its_limits(name):
    rows = aot_report.compile_report(TARGETS[name], aot_report.gate_plans(FULL_SIZE))
    for line in (aot_report.HEADER, *map(aot_report.cells, rows)):
        print(" | ".join(line))
    assert {row.specialization.kernel for row in rows} == set(KERNEL_MODULES)
    wrong = [aot_report.cells(row) for row in rows if row.problems]
    assert not wrong, "\n" + "\n".join(map(" | ".join, wrong))


@needs_triton
@needs_triton
@pytest.mark.parametrize("suppress", [False, True])
def test_every_size_may_be_one(suppress):
    """On a GPU Triton makes a compile-time constant of every integer that is 1."""
    one = Sizes(1, 1, 1, 16, 1, 1, 1, 1)
    wanted = []
    for plan in (
        postprocess_plan(one, Thresholds(), Tiles(), suppress=suppress),
        matrix_nms_plan(one, Thresholds(), Tiles()),
    ):
        for launch in plan.launches:
            ones = {
                name: 1
                for name, value in launch.arguments.items()
                if type(value) is int and value == 1
            }
            kept = {name: v for name, v in launch.arguments.items() if name not in ones}
            constant = dataclasses.replace(
                launch, arguments=kept, constants={**launch.constants, **ones}
            )
            wanted.append(aot.specialize(plan, constant))
    assert len(aot.compile_kernels(wanted, ORIN)) >= 10


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))
def test_the_lowest_ptx_version_works(target):
    plan = small_plan()
    lowest = dataclasses.replace(target, ptx=target.lowest_ptx)
    wanted = [aot.specialize(plan, each) for each in plan.launches]
    for kernel in aot.compile_kernels(wanted, lowest).values():
        assert aot.assemble(kernel, kernel.target).registers > 0

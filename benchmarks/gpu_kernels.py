"""The post-processing kernels on a CUDA GPU: checked against float64, timed, set beside the roof.

    scripts/bench --gpu             # writes benchmarks/results/<gpu>-kernels.{csv,json}
    scripts/bench --gpu --tune      # first chooses tiles, written to kernels/_triton/tiles/<gpu>.json
    python benchmarks/gpu_kernels.py --check-only --small    # the checks, also in the interpreter

Baselines are the plain torch definitions (`solo_edge.kernels.reference`) in float16 and float32: eager,
compiled, and captured in a CUDA graph; the fastest of them counts. Each row states its accuracy: a row
whose check failed is not timed.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import solo_edge.kernels as kernels
from solo_edge import environment
from solo_edge.files import write_json
from solo_edge.kernels import reference
from solo_edge.kernels.tiles import TILES_FOLDER, gpu_slug

RESULTS = Path(__file__).parent / "results"
LIMITS = {"max_candidates": 500, "max_instances": 100}
THRESHOLDS: dict[str, Any] = {
    "score_threshold": 0.1,
    "mask_threshold": 0.5,
    "update_threshold": 0.05,
    "decay": "gaussian",
    "sigma": 2.0,
}


@dataclasses.dataclass(frozen=True)
class Scene:
    """What the network hands over, for a batch; about as many candidates as there are slots."""

    category_scores: Tensor  # [B, C, T]
    mask_kernels: Tensor  # [B, E, T]
    mask_features: Tensor  # [B, E, h, w]
    cell_strides: Tensor  # [T]

    @property
    def arguments(self) -> tuple[Tensor, ...]:
        return (self.category_scores, self.mask_kernels, self.mask_features, self.cell_strides)


def make_scene(batch: int, *, small: bool, dtype: torch.dtype, device: str, seed: int = 0) -> Scene:
    """Fresh random outputs of the light model's shapes (E = 128, 112 x 192, 8 classes)."""
    channels, size, grid_sizes = (128, (112, 192), (40, 36, 24, 16, 12))
    if small:
        channels, size, grid_sizes = 32, (24, 40), (8, 6)
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    cells = sum(s * s for s in grid_sizes)
    features = torch.nn.functional.interpolate(normal(batch, channels, 8, 12), size, mode="bicubic")
    # Forty objects, each found by many cells that differ a little.
    objects = normal(batch, channels, 40) * 0.2
    owner = torch.randint(0, 40, (batch, 1, cells), generator=generator)
    mask_kernels = objects.gather(2, owner.expand(-1, channels, -1))
    mask_kernels = mask_kernels + 0.02 * normal(batch, channels, cells)
    scores = torch.rand(batch, 8, cells, generator=generator) ** 24
    strides = torch.cat(
        [torch.full((s * s,), float(8 << i // 2)) for i, s in enumerate(grid_sizes)]
    )
    return Scene(
        scores.to(device),
        mask_kernels.to(device, dtype),
        features.to(device, dtype),
        strides.to(device),
    )


def check(scene: Scene) -> dict[str, Any]:
    """The kernels against the definition in float64; what the rows state as accuracy.

    Raises:
        SystemExit: they differ by more than rounding.
    """
    scores, mask_kernels, features, _ = scene.arguments
    candidates = kernels.select_candidates(scores, backend="triton")
    expected = reference.select_candidates(scores, score_threshold=0.1, max_candidates=500)
    exact = all(torch.equal(a, b) for a, b in zip(candidates, expected, strict=True))

    packed = kernels.dynamic_conv_pack(
        features, mask_kernels, candidates.cells, candidates.valid_count, backend="triton"
    )
    index = candidates.cells.long()[:, None].expand(-1, mask_kernels.shape[1], -1)
    chosen = mask_kernels.double().gather(2, index).transpose(1, 2)
    logits = chosen @ features.double().flatten(2)
    valid = torch.arange(500, device=scores.device) < candidates.valid_count[:, None]
    inside = (logits > 0) & valid[:, :, None]
    bits = reference.unpack_masks(packed.words, logits.shape[2])
    scale = chosen.abs() @ features.double().abs().flatten(2)
    flips = bits != inside
    worst_flip = float(torch.where(flips, logits.abs() / scale, 0.0).max())
    sums = torch.where(inside, logits.sigmoid(), 0.0).sum(2)
    sum_error = float(((packed.probability_sums - sums).abs() / sums.clamp(min=1)).max())

    arguments = (packed.words, packed.areas, candidates.labels, candidates.scores)
    decayed = kernels.matrix_nms_packed(*arguments, candidates.valid_count, backend="triton")
    plain = reference.matrix_nms_packed(
        *arguments, candidates.valid_count, decay="gaussian", sigma=2.0
    )
    nms_error = float((decayed - plain).abs().max())
    slots = kernels.postprocess(*scene.arguments, backend="triton")
    whole = reference.postprocess(*scene.arguments, **THRESHOLDS, **LIMITS)
    score_error = float((slots.scores - whole.scores).abs().max())
    accuracy = {
        "candidates_equal": exact,
        "bits_differing": int(flips.sum()),
        "bits_of": int(valid.sum()) * logits.shape[2],
        "largest_logit_of_a_flip": worst_flip,
        "probability_sum_relative_error": sum_error,
        "matrix_nms_error": nms_error,
        "instance_score_error": score_error,
        "instances": slots.valid_count.tolist(),
        "instances_equal": torch.equal(slots.valid_count, whole.valid_count),
    }
    # A flip is rounding if the exact logit is within rounding of the threshold.
    good = exact and worst_flip < 2e-6 and sum_error < 1e-3 and nms_error < 1e-6
    if not (good and score_error < 1e-3):
        raise SystemExit(f"the kernels are wrong, so nothing is timed: {json.dumps(accuracy)}")
    return accuracy


def rows_for(
    batch: int, dtype: torch.dtype, accuracy: dict[str, Any], ceilings: Any
) -> list[dict[str, Any]]:
    """One row for each operation: ours, the baselines, the roof. Inputs rotate against the cache."""
    from gpu_timing import graphed, median_us, peak_bytes

    scenes = [make_scene(batch, small=False, dtype=dtype, device="cuda", seed=s) for s in range(3)]
    chosen = [kernels.select_candidates(s.category_scores) for s in scenes]
    packed = [
        kernels.dynamic_conv_pack(s.mask_features, s.mask_kernels, c.cells, c.valid_count)
        for s, c in zip(scenes, chosen, strict=True)
    ]

    def whole(function: Callable[..., Any], i: int, **options: Any) -> Any:
        return function(*scenes[i].arguments, **THRESHOLDS, **LIMITS, **options)

    def pack(function: Callable[..., Any], i: int, **options: Any) -> Any:
        scene, found = scenes[i], chosen[i]
        return function(
            scene.mask_features, scene.mask_kernels, found.cells, found.valid_count,
            mask_threshold=0.5, **options,
        )  # fmt: skip

    def nms(function: Callable[..., Any], i: int, **options: Any) -> Any:
        words, areas, _ = packed[i]
        found = chosen[i]
        return function(
            words, areas, found.labels, found.scores, found.valid_count,
            decay="gaussian", sigma=2.0, **options,
        )  # fmt: skip

    def row(
        name: str,
        call: Callable[..., Any],
        ours: Callable[..., Any],
        plain: Callable[..., Any],
    ) -> dict[str, Any]:
        def every(
            function: Callable[..., Any],
            wrap: Callable[[Callable[[], Any]], Callable[[], Any]] = lambda run: run,
            **options: Any,
        ) -> Callable[[], Any]:
            return rotating(
                [wrap(lambda i=i: call(function, i, **options)) for i in range(len(scenes))]  # type: ignore[misc]
            )

        variants = {
            "triton": every(ours, backend="triton"),
            "triton graph": every(ours, graphed, backend="triton"),
            "torch eager": every(plain),
        }
        baselines = {"torch graph": lambda: every(plain, graphed)}
        if name == "postprocess":  # compiling takes longer than everything else together
            baselines["torch.compile"] = lambda: every(torch.compile(plain, dynamic=False))
        for label, make in baselines.items():
            try:  # a baseline that cannot be captured or compiled is left out, and said to be
                variants[label] = make()
                variants[label]()
            except RuntimeError as error:
                del variants[label]
                print(f"{name}: no {label} ({str(error).splitlines()[0][:100]})", file=sys.stderr)
        times = dict(zip(variants, median_us(list(variants.values())), strict=True))
        baseline = min(time for label, time in times.items() if label.startswith("torch"))
        return {
            "operation": name,
            "batch": batch,
            "dtype": str(dtype).removeprefix("torch."),
            **{f"{label}_us": round(time, 2) for label, time in times.items()},
            "speedup": round(baseline / times["triton graph"], 2),
            "memory_mb": round(peak_bytes(lambda: call(ours, 0, backend="triton")) / 1e6, 2),
            "reference_memory_mb": round(peak_bytes(lambda: call(plain, 0)) / 1e6, 2),
            **roof(name, scenes[0], chosen[0], ceilings, times["triton graph"]),
            **accuracy,
        }

    return [
        row("postprocess", whole, kernels.postprocess, reference.postprocess),
        row("dynamic_conv_pack", pack, kernels.dynamic_conv_pack, reference.dynamic_conv_pack),
        row("matrix_nms_packed", nms, kernels.matrix_nms_packed, reference.matrix_nms_packed),
    ]


def rotating(runs: list[Callable[[], Any]]) -> Callable[[], Any]:
    """Calls one after the other, so that no call finds its own inputs in the cache."""
    turn = [0]

    def run() -> Any:
        turn[0] = (turn[0] + 1) % len(runs)
        return runs[turn[0]]()

    return run


def roof(name: str, scene: Scene, found: Any, ceilings: Any, time_us: float) -> dict[str, Any]:
    """Fewest bytes and operations of the fused convolution, and how near its time is to the larger bound."""
    if name != "dynamic_conv_pack":
        return {}
    batch, channels, height, width = scene.mask_features.shape
    pixels, count, size = height * width, int(found.valid_count.sum()), scene.mask_features.itemsize
    moved = batch * channels * pixels * size + count * (channels * size + pixels / 8)
    operations = 2 * count * channels * pixels
    memory_us = moved / ceilings.bandwidth_gbps / 1e3
    compute_us = operations / ceilings.fp16_tflops / 1e6
    bound = max(memory_us, compute_us)
    return {
        "bytes": int(moved),
        "operations": int(operations),
        "memory_bound_us": round(memory_us, 2),
        "compute_bound_us": round(compute_us, 2),
        "percent_of_roof": round(100 * bound / time_us, 1),
    }


def tune(dtype: torch.dtype) -> dict[str, Any]:
    """The fastest tiles of the two large kernels, in the form of `tiles_from_dict`."""
    from gpu_timing import graphed, median_us

    from solo_edge.kernels._triton import operations
    from solo_edge.kernels.tiles import tiles_from_dict

    grid: dict[str, list[dict[str, Any]]] = {
        "dynamic_conv_pack": [
            {
                "constants": {"BLOCK_N": n, "BLOCK_P": p, "BLOCK_E": e},
                "num_warps": w,
                "num_stages": stages,
            }
            for n in (32, 64, 128)
            for p in (64, 128, 256)
            for e in (32, 64)
            for w in (4, 8)
            for stages in (2, 3)
            if n * p <= 128 * 128
        ],
        "mask_overlap": [
            {
                "constants": {"BLOCK_I": b, "BLOCK_J": b, "BLOCK_W": w, "METHOD": method},
                "num_warps": warps,
            }
            for method, choices in (
                ("popc", [(16, 16), (16, 32), (32, 8), (32, 16)]),
                ("int8", [(32, 4), (64, 4), (64, 8)]),
            )
            for b, w in choices
            for warps in (4, 8)
        ],
    }
    scene = make_scene(1, small=False, dtype=dtype, device="cuda")
    best: dict[str, Any] = {}
    original = operations.tiles_for
    try:
        for name, choices in grid.items():
            timed = []
            for choice in choices:
                tiles = tiles_from_dict({**best, name: choice})
                operations.tiles_for = lambda _, tiles=tiles: tiles  # type: ignore[assignment]
                try:
                    run = graphed(lambda: kernels.postprocess(*scene.arguments, backend="triton"))
                    timed.append((median_us([run], repeats=10)[0], choice))
                except Exception as error:  # too much shared memory, or no such instruction
                    print(f"{name} {choice}: {type(error).__name__}", file=sys.stderr)
            time, best[name] = min(timed, key=lambda row: row[0])
            print(f"{name}: {best[name]} {time:.1f} us for the whole chain")
    finally:
        operations.tiles_for = original
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tune", action="store_true", help="choose tile sizes for this GPU first")
    parser.add_argument("--check-only", action="store_true", help="time nothing")
    parser.add_argument("--small", action="store_true", help="small shapes, for the interpreter")
    parser.add_argument("-o", "--out", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.check_only or device == "cpu":
        if not options.check_only:
            raise SystemExit("no CUDA GPU here; --check-only --small runs the checks interpreted")
        scene = make_scene(2, small=options.small, dtype=torch.float32, device=device)
        print(json.dumps(check(scene), indent=1))
        return

    from gpu_timing import measure_ceilings

    name = torch.cuda.get_device_name()
    if options.tune:
        tiles = {"gpu": name, "versions": environment.versions(), "tiles": tune(torch.float16)}
        write_json(TILES_FOLDER / f"{gpu_slug(name)}.json", tiles)
    ceilings = measure_ceilings()
    print(ceilings)
    rows = []
    for batch, dtype in ((1, torch.float16), (8, torch.float16), (1, torch.float32)):
        accuracy = check(make_scene(batch, small=False, dtype=dtype, device=device, seed=7))
        rows += rows_for(batch, dtype, accuracy, ceilings)
        for row in rows[-3:]:
            print({k: v for k, v in row.items() if not isinstance(v, list)})
    write_results(options.out / f"{gpu_slug(name)}-kernels", rows, ceilings)


def write_results(stem: Path, rows: list[dict[str, Any]], ceilings: Any) -> None:
    head = {**environment.describe(), "ceilings": dataclasses.asdict(ceilings)}
    stem.parent.mkdir(parents=True, exist_ok=True)
    write_json(stem.with_suffix(".json"), {**head, "rows": rows})
    names = list(dict.fromkeys(name for row in rows for name in row))
    with stem.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    print(f"written: {stem}.json, {stem}.csv")


if __name__ == "__main__":
    main()

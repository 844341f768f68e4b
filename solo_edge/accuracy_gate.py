"""What an INT8 engine has to show before it gets its name: its accuracy beside that in float.

A layer that INT8 hurts too much may stay in float: which ones is found out from the noise that each
causes by itself and from the accuracy of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from solo_edge.errors import AccuracyError
from solo_edge.evaluate import Evaluation, evaluate, matched_iou

if TYPE_CHECKING:
    from solo_edge.calibration.layers import LayerNoise
    from solo_edge.data.coco import CocoDataset
    from solo_edge.export.int8 import Int8Build, Verdict

__all__ = ["AccuracyGate", "measure_layers"]

NOISE_IMAGES = 12  # enough to put the layers in order
SHOWN_LAYERS = 5


@dataclass
class AccuracyGate:
    """Compares INT8 with float on the same images through the same code; for `build_engine`.

    Args:
        dataset: images that calibration did not see.
        max_ap_drop: how many points of mask AP (of 100) INT8 may cost.
        retry: where all layers in INT8 cost more, look for those that have to stay in float.
        report: is called with one line about each result.
        progress: is called with the number of images or layers done and of all.
    """

    dataset: CocoDataset
    max_ap_drop: float
    retry: bool = True
    threads: int | None = None
    report: Callable[[str], None] = lambda line: None
    progress: Callable[[int, int], None] = lambda done, total: None
    verdicts: list[Verdict] = field(default_factory=list, init=False)  # all, in order
    _float: Evaluation | None = field(default=None, init=False)

    def __call__(self, build: Int8Build) -> Verdict:
        """Which layers stay in float, and what the engine then reaches.

        Raises:
            AccuracyError: INT8 costs too much, also without the layers that it hurts most.
        """
        with build.float_engine() as engine:
            self._float = evaluate(engine, self.dataset, progress=self.progress)
        verdict = self._measure(build, build.ranges.excluded)
        if self._is_good(verdict):
            return verdict
        layers = measure_layers(build, self.dataset, self.threads, self.progress)
        self._name_the_guilty(layers)
        if self.retry:
            found = self._search(build, layers)
            if found is not None:
                return found
        lost = 100 * (verdict.float_ap - verdict.int8_ap)
        what = f"int8 costs {lost:.2f} points of mask AP, allowed are {self.max_ap_drop:g}"
        fix = "calibrate with more images or --method auto, train with --qat, or allow more"
        raise AccuracyError(what, fix=fix)

    def _measure(self, build: Int8Build, excluded: Collection[str]) -> Verdict:
        from solo_edge.export.int8 import Verdict

        assert self._float is not None
        with build.int8_engine(excluded) as engine:
            small = evaluate(engine, self.dataset, progress=self.progress)
        verdict = Verdict(
            excluded=tuple(sorted(excluded)),
            float_share=build.float_share(excluded),
            float_ap=self._float.ap,
            int8_ap=small.ap,
            mask_iou=matched_iou(self._float.detections, small.detections),
            data=self.dataset.path.name,
            split=self.dataset.split,
            images=len(self.dataset),
        )
        points = 100 * (verdict.int8_ap - verdict.float_ap)
        line = f"mask AP {verdict.float_ap:.4f} in float, {verdict.int8_ap:.4f} in int8"
        self.report(
            f"{line} ({points:+.2f} points, IoU of the masks {verdict.mask_iou:.3f})"
            + (f" without {len(excluded)} layers" if excluded else "")
        )
        self.verdicts.append(verdict)
        return verdict

    def _is_good(self, verdict: Verdict) -> bool:
        return 100 * (verdict.float_ap - verdict.int8_ap) <= self.max_ap_drop

    def _name_the_guilty(self, layers: Sequence[LayerNoise]) -> None:
        from solo_edge.calibration.mixed_precision import exclusion_order

        total = sum(each.multiply_adds for each in layers)
        self.report("what hurts most for its work, alone in INT8:")
        for each in exclusion_order(layers)[:SHOWN_LAYERS]:
            ratios = ", ".join(f"{name} {value:.0f} dB" for name, value in each.sqnr_db.items())
            share = 100 * each.multiply_adds / total
            self.report(f"  {each.short_name} ({share:.1f} % of the multiply-adds): {ratios}")

    def _search(self, build: Int8Build, layers: Sequence[LayerNoise]) -> Verdict | None:
        from solo_edge.calibration.layers import short_name
        from solo_edge.calibration.mixed_precision import MAX_FLOAT_SHARE, cheapest_exclusions

        always = frozenset(build.ranges.excluded)
        tried: dict[frozenset[str], Verdict] = {}

        def is_good(excluded: frozenset[str]) -> bool:
            tried[excluded] = self._measure(build, excluded | always)
            return self._is_good(tried[excluded])

        chosen = cheapest_exclusions(layers, is_good)
        if chosen is None:
            share = f"{MAX_FLOAT_SHARE:.0%}"
            self.report(f"even with {share} of the multiply-adds in float it loses too much")
            return None
        verdict = tried[chosen]
        names = ", ".join(map(short_name, verdict.excluded))
        self.report(f"in float stay {names} ({verdict.float_share:.1%} of the multiply-adds)")
        return verdict


def measure_layers(
    build: Int8Build,
    dataset: CocoDataset,
    threads: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[LayerNoise]:
    """The noise of each layer, on the first images of `dataset`, the noisiest first."""
    import numpy as np
    import onnx

    from solo_edge.calibration.layers import layer_noise

    prepare = build.checkpoint.preprocess
    count = min(NOISE_IMAGES, len(dataset))
    images = [prepare(dataset.image(i))[0][np.newaxis] for i in range(count)]
    return layer_noise(
        onnx.load(build.float_file),
        build.ranges.limits,
        images,
        excluded=build.ranges.excluded,
        bias_shifts=build.ranges.bias_shifts,
        threads=threads,
        progress=progress,
    )

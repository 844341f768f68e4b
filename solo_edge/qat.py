"""Quantisation-aware training: a SOLOv2 that rounds where its INT8 engine will (arXiv:1712.05877).

Ranges and places are those of the Q/DQ graph that `solo_edge.calibration.qdq` writes for the same
ranges, read from that graph. Batch norms keep their statistics and are folded into their
convolutions while the network runs, as the exporter folds them; the model's classes and weights stay
what they are, so its checkpoint exports as ever.
"""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from solo_edge.calibration.observers import ZERO_CHANNEL_SCALE
from solo_edge.calibration.ranges import Ranges, read_ranges
from solo_edge.checkpoint import Checkpoint, find_checkpoint, load_checkpoint
from solo_edge.errors import ArtifactError, UsageError
from solo_edge.files import sha256_of
from solo_edge.models.solov2 import SOLOv2, SOLOv2Output
from solo_edge.qat_plan import CallOrder, Pair, Plan, folded, make_plan, parameter_names

__all__ = ["FakeInt8", "QatStart", "fake_quantize", "freeze_batch_norms", "read_start"]

OUT_OF_ORDER = "the network does not compute in the order of its export"
# QuantizeLinear saturates there. Scales are made for 127; only a value beyond the range becomes -128.
LOWEST, HIGHEST = -128, 127
SMALLEST_SCALE = 2.0**-126  # as in `observers.weight_scales`


def fake_quantize(x: Tensor, scale: Tensor) -> Tensor:
    """What QuantizeLinear and DequantizeLinear (int8, zero point 0) make of `x`, with a gradient.

    The gradient passes unchanged where nothing is clipped and is 0 elsewhere (straight-through
    estimator, arXiv:1308.3432). `scale` gets none.

    Args:
        x: any floating type; the steps are counted in float32.
        scale: float32 on the device of `x`, of a shape that broadcasts to it; positive.
    """
    rounded: Tensor = _FakeQuantize.apply(x, scale)
    return rounded


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        # A division, as in QuantizeLinear: the product with the reciprocal rounds differently at ties.
        steps = (x.float() / scale).round_()
        ctx.save_for_backward((steps >= LOWEST) & (steps <= HIGHEST))
        return steps.clamp_(LOWEST, HIGHEST).mul_(scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (inside,) = ctx.saved_tensors
        return gradient * inside, None


def weight_scales(weight: Tensor) -> Tensor:
    """`calibration.observers.weight_scales` for [O, ...] tensors on any device, as [O, 1, ...]."""
    largest = weight.detach().abs().flatten(1).amax(1).double()
    scales = (largest / HIGHEST).clamp_min(SMALLEST_SCALE)
    scales = scales.masked_fill(largest == 0, ZERO_CHANNEL_SCALE).float()
    return scales.view(-1, *[1] * (weight.ndim - 1))


def freeze_batch_norms(model: nn.Module) -> None:
    """Make them keep their running statistics; what follows them was quantised for these."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


class FakeInt8:
    """Runs a network as its INT8 engine would, in floating point and with gradients."""

    def __init__(self, plan: Plan):
        self.plan = plan

    @classmethod
    def of(cls, model: SOLOv2, ranges: Ranges) -> FakeInt8:
        """Export `model`, which stays as it is, and read from the Q/DQ graph where it rounds.

        Args:
            model: the network that the ranges were measured with, or the same with other weights.

        Raises:
            ArtifactError: the ranges are not of this network, or it cannot be followed.
            ResourceError: onnx or onnxscript is not installed.
        """
        from solo_edge.export.onnx import export_onnx

        plain = copy.deepcopy(model).cpu().float().eval()
        plain = plain.to(memory_format=torch.contiguous_format)
        with tempfile.TemporaryDirectory(prefix="qat-") as folder:
            path = Path(folder, "model.onnx")
            export_onnx(plain, path)
            import onnx

            from solo_edge.calibration.qdq import insert_pairs

            graph = insert_pairs(onnx.load(path), ranges.limits, ranges.excluded)
        return cls(make_plan(plain, graph))

    def __call__(self, model: SOLOv2, images: Tensor) -> SOLOv2Output:
        """`model(images)` with rounding; `model` may be any copy of the network."""
        run = _Run(self.plan, model, images.device)
        with run:
            output: SOLOv2Output = model(images)
        run.finish()
        return output

    def __str__(self) -> str:
        convolutions, additions = self.plan.convolutions, self.plan.additions
        rounded = sum(each.input is not None for each in convolutions)
        skips = sum(any(each.inputs) for each in additions)
        return (
            f"{rounded} of {len(convolutions)} convolutions and {skips} residual additions are"
            " rounded to INT8, batch norms are frozen"
        )


class _Run(CallOrder):
    """One forward pass."""

    def __init__(self, plan: Plan, model: SOLOv2, device: torch.device):
        super().__init__()
        self.model = model
        self.device = device
        self.names = parameter_names(model)
        self.convolutions = iter(plan.convolutions)
        self.additions = iter(plan.additions)
        self.folded_output: Tensor | None = None  # whose batch norm is done already

    def convolution(
        self, x: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any, **named: Any
    ) -> Tensor:
        call = next(self.convolutions, None)
        if call is None or self.names.get(id(weight)) != call.weight:
            raise ArtifactError(OUT_OF_ORDER)
        if call.input is None:
            return F.conv2d(x, weight, bias, *rest, **named)
        if call.norm is not None:
            norm = cast(nn.BatchNorm2d, self.model.get_submodule(call.norm))
            weight, bias = folded(weight, bias, norm)
        x, weight = self.operands(x, weight, call.input, call.coordinates)
        output = F.conv2d(x, weight, bias, *rest, **named)
        self.folded_output = None if call.norm is None else output
        return output

    def operands(
        self, x: Tensor, weight: Tensor, pair: Pair, coordinates: int
    ) -> tuple[Tensor, Tensor]:
        """Both rounded, except where they concern coordinates, the last channels of the input."""
        if not coordinates:
            return self.rounded(x, pair), fake_quantize(weight, weight_scales(weight))
        # A depthwise convolution has a filter for each channel, others have channels in each filter.
        axis = 0 if weight.shape[1] == 1 else 1
        features, rest = x.tensor_split([-coordinates], dim=1)
        filters, others = weight.tensor_split([-coordinates], dim=axis)
        filters = fake_quantize(filters, weight_scales(filters))
        x = torch.cat([self.rounded(features, pair), rest], dim=1)
        return x, torch.cat([filters, others], dim=axis)

    def batch_norm(self, x: Tensor, running_mean: Tensor, *rest: Any, **named: Any) -> Tensor:
        if x is self.folded_output:
            self.folded_output = None
            return x
        return F.batch_norm(x, running_mean, *rest, **named)

    def addition(self, add: Any, a: Tensor, b: Tensor, **named: Any) -> Tensor:
        call = next(self.additions, None)
        if call is None:
            raise ArtifactError(OUT_OF_ORDER)
        left, right = (
            x if pair is None else self.rounded(x, pair)
            for x, pair in zip((a, b), call.inputs, strict=True)
        )
        if add.__name__ == "add_" and left is not a:
            left = a.copy_(left)  # the caller goes on with `a`
        result: Tensor = add(left, right, **named)
        return result

    def finish(self) -> None:
        if next(self.convolutions, None) is not None or next(self.additions, None) is not None:
            raise ArtifactError(OUT_OF_ORDER)

    def rounded(self, x: Tensor, pair: Pair) -> Tensor:
        # On the device, where a number of the host would become a product with its reciprocal.
        scale = torch.full((), pair.scale, dtype=torch.float32, device=self.device)
        return fake_quantize(x, scale)


@dataclass(frozen=True)
class QatStart:
    """What a quantisation-aware run starts from."""

    checkpoint: Checkpoint
    ranges: Ranges

    def require_classes(self, names: tuple[str, ...], where: Path) -> None:
        """Raise UsageError if the data has other classes, or the same in another order."""
        if names != self.checkpoint.class_names:
            what = "data and checkpoint differ in their classes"
            raise UsageError(what, where=where, fix="give data as the checkpoint was trained on")


def read_start(init: Path | None, ranges: Path) -> QatStart:
    """Read the checkpoint and the ranges that were measured with it.

    Raises:
        UsageError: there is no checkpoint, or it has deformable convolutions, which no INT8 graph holds.
        ArtifactError: a file is damaged, or the ranges are of another checkpoint or preprocessing.
    """
    if init is None:
        fix = "give the checkpoint that the ranges were measured with"
        raise UsageError("--qat needs --init", fix=fix)
    path = find_checkpoint(init)
    checkpoint = load_checkpoint(path)
    if checkpoint.config.conv == "deformable":
        what = "deformable convolutions have no INT8 form"
        raise UsageError(what, where=path, fix="train this model without --qat")
    read = read_ranges(ranges)
    read.require_fit(sha256_of(path), checkpoint.preprocess, ranges)
    return QatStart(checkpoint, read)

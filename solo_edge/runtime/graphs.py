"""The two graphs as PyTorch modules, and the network in fewer bits.

Whoever exports or runs a graph takes it from here, so PyTorch and ONNX files compute the same.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from solo_edge.config import PostprocessConfig
from solo_edge.manifest import Graph, Precision
from solo_edge.models.solov2 import SOLOv2, SOLOv2Output
from solo_edge.postprocess import network_tensors, postprocess_slots, static_postprocess

__all__ = ["FullGraph", "NetworkGraph", "graph_module"]

_DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
_NORMS = (nn.GroupNorm, nn.LayerNorm, nn.modules.batchnorm._BatchNorm)


class NetworkGraph(nn.Module):
    """image [B, 3, H, W] -> category_scores [B, C, T], mask_kernels [B, E, T], mask_features [B, E, h, w].

    Inputs and outputs are float32 in every precision, and so are the sigmoid and points NMS, which compares
    neighbours that 16 bits could not tell apart.
    """

    def __init__(self, model: SOLOv2, precision: Precision = "fp32"):
        super().__init__()
        self.dtype = _DTYPES[precision]
        self.model = model if precision == "fp32" else _reduced(model, self.dtype)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self._tensors(image)[:3]

    def _tensors(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        output: SOLOv2Output = self.model(image.to(self.dtype))
        return network_tensors(output)


class FullGraph(NetworkGraph):
    """image [B, 3, H, W] -> labels [B, M], scores [B, M], masks [B, M, h, w], valid_count [B].

    The network, then post-processing with `config` built in: `static_postprocess` in float32, or on a
    CUDA GPU the kernels that equal it.
    """

    def __init__(self, model: SOLOv2, config: PostprocessConfig, precision: Precision = "fp32"):
        super().__init__(model, precision)
        self.config = config

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # type: ignore[override]  # other outputs
        if not image.is_cuda:
            return static_postprocess(*self._tensors(image), self.config)
        slots = postprocess_slots(self.model(image.to(self.dtype)), self.config)
        labels, count = slots.labels.long(), slots.valid_count.long()
        return labels, slots.scores, slots.probabilities, count


def graph_module(
    model: SOLOv2, graph: Graph, precision: Precision, config: PostprocessConfig
) -> NetworkGraph:
    """The module of `graph` around `model`, which is not changed, for evaluation without gradients."""
    module = (
        NetworkGraph(model, precision)
        if graph == "network"
        else FullGraph(model, config, precision)
    )
    return module.eval()


def _reduced(model: SOLOv2, dtype: torch.dtype) -> SOLOv2:
    """A copy that computes in `dtype`, but normalises in float32.

    Batch norms vanish into their convolutions before the weights lose bits; the others measure
    their statistics over whole maps, whose sums 16 bits cannot hold.
    """
    model = _fold_batch_norms(copy.deepcopy(model).eval()).to(dtype)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _NORMS):
                setattr(parent, name, _InFloat32(child))
    return model


class _InFloat32(nn.Module):
    """A norm that computes in float32 whatever it is given, and returns the given type."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.norm = norm.float()

    def forward(self, x: Tensor) -> Tensor:
        normalised: Tensor = self.norm(x.float())
        return normalised.to(x.dtype)


def _fold_batch_norms(model: SOLOv2) -> SOLOv2:
    """Multiply every batch norm that directly follows a convolution into its weights, in place."""
    for norm, conv in _followed_convolutions(model).items():
        conv.weight.data, bias = _folded(norm, conv)
        conv.bias = nn.Parameter(bias, requires_grad=False)
        # timm's norms carry their activation.
        rest = [getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)]
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if child is norm:
                    setattr(parent, name, nn.Sequential(*rest))
    return model


def _folded(norm: nn.BatchNorm2d, conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of `conv` with `norm` behind it."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight.data.double()
    shift = -norm.running_mean.double() * scale
    if norm.affine:
        shift = shift + norm.bias.data.double()
    if conv.bias is not None:
        shift = shift + conv.bias.data.double() * scale
    weight = conv.weight.data.double() * scale.view(-1, 1, 1, 1)
    return weight.to(conv.weight.dtype), shift.to(conv.weight.dtype)


def _followed_convolutions(model: SOLOv2) -> dict[nn.BatchNorm2d, nn.Conv2d]:
    """Each batch norm whose input is always the output of one convolution, as seen in one run."""
    from timm.layers.norm_act import BatchNormAct2d

    made: list[tuple[Tensor, nn.Conv2d]] = []  # holds the tensors, so that no id is used twice
    makers: dict[nn.BatchNorm2d, set[nn.Conv2d | None]] = {}

    def after_conv(conv: Any, inputs: Any, output: Tensor) -> None:
        made.append((output, conv))

    def before_norm(norm: Any, inputs: tuple[Tensor, ...]) -> None:
        source = next((conv for tensor, conv in reversed(made) if tensor is inputs[0]), None)
        makers.setdefault(norm, set()).add(source)

    hooks = []
    for module in model.modules():
        if type(module) is nn.Conv2d:
            hooks.append(module.register_forward_hook(after_conv))
        elif type(module) in (nn.BatchNorm2d, BatchNormAct2d) and module.track_running_stats:
            hooks.append(module.register_forward_pre_hook(before_norm))
    try:
        with torch.no_grad():
            model(torch.zeros(1, 3, 64, 64))
    finally:
        for hook in hooks:
            hook.remove()
    pairs = {norm: next(iter(sources)) for norm, sources in makers.items() if len(sources) == 1}
    convs = list(pairs.values())
    return {
        norm: conv for norm, conv in pairs.items() if conv is not None and convs.count(conv) == 1
    }

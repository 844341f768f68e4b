"""A PyTorch model as a function from an image to instances."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from solo_edge.instances import Instances
from solo_edge.models.solov2 import SOLOv2, SOLOv2Output
from solo_edge.postprocess import postprocess
from solo_edge.preprocess import Preprocess

__all__ = ["Forward", "Predict", "model_predictor"]

Forward = Callable[[SOLOv2, torch.Tensor], SOLOv2Output]
Predict = Callable[[NDArray[np.uint8]], Instances]


def model_predictor(
    model: SOLOv2,
    class_names: tuple[str, ...],
    forward: Forward = lambda model, images: model(images),
) -> Predict:
    """image [H, W, 3] uint8 RGB -> Instances, through the PyTorch model where it stands."""
    preprocess = Preprocess.from_config(model.config)
    device = next(model.parameters()).device

    @torch.inference_mode()
    def predict(image: NDArray[np.uint8]) -> Instances:
        tensor, geometry = preprocess(image)
        output = forward(model, torch.from_numpy(tensor)[None].to(device))
        sizes = ([geometry.resized_size], [geometry.original_size])
        return postprocess(output, *sizes, class_names=class_names)[0]

    return predict

"""Where the Triton kernels run: on a GPU if there is one, else in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernels' launcher allocates is full of NaN, or of large numbers: nothing may rely on it."""
    from solo_edge.kernels._triton import launch

    empty = torch.empty

    def poisoned(*args: object, **options: object) -> torch.Tensor:
        tensor = empty(*args, **options)
        if tensor.is_floating_point():
            return tensor.fill_(float("nan"))
        return tensor.view(torch.uint8).fill_(0xA5).view(tensor.dtype) if tensor.numel() else tensor

    monkeypatch.setattr(launch, "allocate", poisoned)

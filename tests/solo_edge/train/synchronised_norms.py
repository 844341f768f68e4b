"""Synchronised batch norms beside ordinary ones that see the whole batch, in float64.

torchrun --nproc-per-node 2 synchronised_norms.py
"""

from __future__ import annotations

import copy
import sys

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d

from solo_edge.train.batch_norm import prepare_batch_norms


def compare(norm: torch.nn.BatchNorm2d, images: int) -> None:
    rank = dist.get_rank()
    whole, synchronised = norm, torch.nn.Sequential(copy.deepcopy(norm))
    prepare_batch_norms(synchronised, "sync")
    assert synchronised[0].state_dict().keys() == whole.state_dict().keys()
    x = 3 + 2 * torch.randn(images, 5, 6, 7, dtype=torch.float64)
    weights = torch.randn(images, 5, 6, 7, dtype=torch.float64)
    ours, theirs = x[rank::2].clone().requires_grad_(), x.clone().requires_grad_()
    for _ in range(2):  # running statistics move twice
        y, wanted = synchronised(ours), whole(theirs)
        torch.testing.assert_close(y, wanted[rank::2])
    (y * weights[rank::2]).sum().backward()
    (wanted * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad[rank::2])
    for parameter, other in zip(synchronised.parameters(), whole.parameters(), strict=True):
        dist.all_reduce(parameter.grad)
        torch.testing.assert_close(parameter.grad, other.grad)
    for name, value in synchronised[0].state_dict().items():
        torch.testing.assert_close(value, whole.state_dict()[name])
    synchronised.eval(), whole.eval()
    torch.testing.assert_close(synchronised(x), whole(x))


def main() -> int:
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    for images in (4, 5, 1):  # of one image the second process gets nothing
        compare(torch.nn.BatchNorm2d(5).double(), images)
        compare(BatchNormAct2d(5).double(), images)
        compare(torch.nn.BatchNorm2d(5, momentum=None).double(), images)
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())

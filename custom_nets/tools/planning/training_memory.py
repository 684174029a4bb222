"""Estimate of the memory of a training step, before a bundle is written."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

ADAM = 2
"""Numbers that the optimiser keeps for each weight."""


def estimate_training_memory(network: Any, shape: Sequence[int], batch_size: int, points: int = 0) -> float:
    """Estimates what a step holds at its peak, in float32; PyTorch's tracker follows it on tensors without data.

    Not counted are workspaces of convolution libraries, and Python and PyTorch themselves (about 0.4 GiB).

    Args:
        network: an occupancy network, or one that maps images to logits.
        shape: of an image (C, H, W, D).
        batch_size: images a step.
        points: that an occupancy network is queried at; 0 for other networks.

    Returns:
        GiB.
    """
    net = copy.deepcopy(network).train()
    weights = sum(parameter.numel() * parameter.element_size() for parameter in net.parameters())
    with FakeTensorMode(allow_non_fake_inputs=True):
        image = torch.empty(batch_size, *shape)
        tracker = MemTracker()
        with tracker:
            outputs = net(image, torch.zeros(batch_size, points, 3, dtype=torch.int64)) if points else net(image)
            terms = [tensor.float().square().mean() for tensor in _tensors(outputs) if tensor.is_floating_point()]
            torch.stack(terms).sum().backward()
    peak = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    return (peak + ADAM * weights + image.numel() * image.element_size()) / 2**30


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [tensor for part in value for tensor in _tensors(part)] if isinstance(value, (tuple, list)) else []

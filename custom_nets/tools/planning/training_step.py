"""What a training step takes in memory, estimated, and in time, tried; before a bundle is written."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

ADAM = 2
"""Numbers that the optimiser keeps for each weight."""

BESIDE_NETWORK = 1.15
"""A step with loss and optimiser, over the network's passes alone."""

AUGMENTATION = 1e-8
"""Seconds that a core takes to augment a number of an image, a voxel of one channel."""

StepTimer = Callable[[Any, Sequence[int], int, int], float]
"""Maps a network, the shape of an image (C, H, W, D), images a step and points to the seconds of a step."""


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
            _pass_both_ways(net, image, points)
    peak = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    return (peak + ADAM * weights + image.numel() * image.element_size()) / 2**30


def time_training_step(network: Any, shape: Sequence[int], batch_size: int, points: int = 0) -> float:
    """Tells the seconds of a step on this machine, on its GPU where there is one, by a try with random images.

    Args:
        network: see `estimate_training_memory`.
        shape: likewise.
        batch_size: likewise.
        points: likewise.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = copy.deepcopy(network).train().to(device)
    image = torch.randn(batch_size, *shape, device=device)
    seconds = []
    for _ in range(2):  # the first one also loads libraries
        start = perf_counter()
        _pass_both_ways(net, image, points)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(perf_counter() - start)
    return min(seconds) * BESIDE_NETWORK + image.numel() * AUGMENTATION


def _pass_both_ways(network: Any, image: Tensor, points: int) -> None:
    """A step as `SamplePoints` and the trainer make it, a quarter of the points chosen by the network."""
    if points:
        uncertain = points // 4
        sides = torch.tensor(image.shape[2:], device=image.device)
        queried = (torch.rand(len(image), points + 2 * uncertain, 3, device=image.device) * sides).long()
        outputs = network(image, queried, candidates=3 * uncertain, uncertain=uncertain)[:2]
    else:
        outputs = network(image)
    terms = [tensor.float().square().mean() for tensor in _tensors(outputs) if tensor.is_floating_point()]
    torch.stack(terms).sum().backward()


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [tensor for part in value for tensor in _tensors(part)] if isinstance(value, (tuple, list)) else []

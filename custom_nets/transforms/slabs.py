"""Volumes taken apart into slabs, so that what is computed from them on the way stays small."""

from __future__ import annotations

import math

import torch

_VOXELS = 1 << 20


def split_slabs(volume: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Returns views of a volume `[C, H, W, D]` along H, of about a million voxels a channel, at least one plane each.

    A slab of one plane would do for the memory, but is so small that threads wait for each other at every step.
    """
    plane = max(math.prod(volume.shape[2:]), 1)
    return volume.as_subclass(torch.Tensor).split(max(_VOXELS // plane, 1), dim=1)

"""Foreground of an image."""

from __future__ import annotations

import numpy as np
import torch

from custom_nets.transforms.saving.meshes import above, as_array


def is_foreground(image: torch.Tensor) -> np.ndarray:
    """Returns where any channel of an image `[C, H, W, D]` is above 0, `[1, H, W, D]`.

    For `select_fn` of MONAI's `CropForegroundd`. Its own default compares all channels, and then has PyTorch reduce
    Boolean volumes along axes: several times slower than NumPy, which takes over where it is given a NumPy mask.
    """
    first, *others = as_array(image)
    mask = above(first, 0)
    for channel in others:
        mask |= above(channel, 0)
    return mask[None]


def is_above_least(image: torch.Tensor) -> np.ndarray:
    """Returns where any channel of an image `[C, H, W, D]` is above its own darkest voxel, `[1, H, W, D]`.

    In place of `is_foreground` for images whose background is not 0, such as CT or what has voxels below 0.
    """
    first, *others = as_array(image)
    mask: np.ndarray = first > first.min()
    for channel in others:
        mask |= channel > channel.min()
    return mask[None]

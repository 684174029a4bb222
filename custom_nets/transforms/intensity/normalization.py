"""MRI intensities: scaled by what lies inside the head."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform

_TINY = 1e-15


class NormalizeNonzero(Transform):
    """Gives the voxels of each channel that are not 0 a mean of 0 and a standard deviation of 1; 0 stays 0.

    The numbers are those of MONAI's `NormalizeIntensity(nonzero=True, channel_wise=True)`, which reads and writes these
    voxels through their indices (int64, three a voxel) and takes twice as long. Like that one, it writes into the image
    that it is given. A channel of one value becomes 0, one of zeros stays.
    """

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Normalises a float image `[C, H, W, D]` in place, and returns it."""
        for channel in image.as_subclass(torch.Tensor):
            outside = channel == 0
            inside = channel.masked_select(~outside)
            if not len(inside):
                continue
            mean, deviation = inside.mean().item(), inside.std(unbiased=False).item()
            if not _TINY < deviation < math.inf and inside.min() < inside.max():  # whose square float32 cannot hold
                scale = inside.abs().max().item()
                channel.div_(scale)
                inside = inside / scale
                mean, deviation = inside.mean().item(), inside.std(unbiased=False).item()
            channel.sub_(mean).div_(deviation or 1.0).masked_fill_(outside, 0)
        return image


class NormalizeNonzerod(MapTransform):
    """Dictionary form of `NormalizeNonzero`."""

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.normalize = NormalizeNonzero()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.normalize(item[key])
        return item

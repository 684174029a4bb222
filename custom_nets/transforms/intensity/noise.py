"""Random changes of intensity, drawn on the device where the image is."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import get_track_meta
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_tensor

_SEEDS = 2**63 - 1


class RandGaussianNoised(RandomizableTransform, MapTransform):
    """Adds Gaussian noise, drawn for each key.

    MONAI's transform of this name draws on the CPU, in float64: about a second for four modalities of 256x256x160,
    many times a training step on a GPU. This one draws in the image's own precision where the image is, from a
    generator whose seed comes from the transform's random state: reproducible under `monai.utils.set_determinism`.

    Args:
        keys: images `[C, H, W, D]`, floating point.
        prob: how often noise is added.
        std: its standard deviation, or with `sample_std` the largest one.
        sample_std: whether the standard deviation of each call is drawn uniformly from 0 to `std`.
        allow_missing_keys: whether an item may lack a key.
    """

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 0.1,
        std: float = 0.1,
        allow_missing_keys: bool = False,
        sample_std: bool = True,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.std = std
        self.sample_std = sample_std

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        self.randomize(None)
        if not self._do_transform:
            return item
        std = self.R.uniform(0, self.std) if self.sample_std else self.std
        for key in self.key_iterator(item):
            image = convert_to_tensor(item[key], track_meta=get_track_meta())
            generator = torch.Generator(image.device).manual_seed(int(self.R.randint(_SEEDS, dtype=np.int64)))
            noise = torch.empty(image.shape, dtype=image.dtype, device=image.device)
            item[key] = image + noise.normal_(0, std, generator=generator)
        return item

"""Random changes of intensity, drawn on the device where the image is."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import get_track_meta
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_tensor

_SEEDS = 2**63 - 1


class RandGaussianNoise(RandomizableTransform):
    """Adds Gaussian noise.

    MONAI's transform of this name draws on the CPU, in float64: about a second for four modalities of 256x256x160,
    many times a training step on a GPU. This one draws in the image's own precision where the image is, from a
    generator whose seed comes from the transform's random state: reproducible under `monai.utils.set_determinism`.

    Args:
        prob: how often noise is added.
        std: its standard deviation, or with `sample_std` the largest one.
        sample_std: whether the standard deviation of each call is drawn uniformly from 0 to `std`.
    """

    def __init__(self, prob: float = 0.1, std: float = 0.1, sample_std: bool = True) -> None:
        super().__init__(prob)
        self.std = std
        self.sample_std = sample_std
        self._drawn_std = std

    def randomize(self, data: Any = None) -> None:
        """Draws whether noise is added, and how much."""
        super().randomize(data)
        if self._do_transform and self.sample_std:
            self._drawn_std = self.R.uniform(0, self.std)

    def __call__(self, img: NdarrayOrTensor, randomize: bool = True) -> NdarrayOrTensor:
        """Adds noise to one image.

        Args:
            img: `[C, H, W, D]`, floating point.
            randomize: whether to call `randomize` first; the noise itself is always drawn anew.
        """
        if randomize:
            self.randomize()
        if not self._do_transform:
            return img
        image = convert_to_tensor(img, track_meta=get_track_meta())
        generator = torch.Generator(image.device).manual_seed(int(self.R.randint(_SEEDS, dtype=np.int64)))
        noise = torch.empty(image.shape, dtype=image.dtype, device=image.device)
        return image + noise.normal_(0, self._drawn_std, generator=generator)


class RandGaussianNoised(RandomizableTransform, MapTransform):
    """Dictionary form of `RandGaussianNoise`: all keys gain noise of one standard deviation, each its own.

    Args:
        keys: images `[C, H, W, D]`, floating point.
        prob: see `RandGaussianNoise`.
        std: likewise.
        allow_missing_keys: whether an item may lack a key.
        sample_std: see `RandGaussianNoise`.
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
        self.noise = RandGaussianNoise(prob, std, sample_std)

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> RandGaussianNoised:
        """Seeds the noise."""
        self.noise.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        self.noise.randomize()
        for key in self.key_iterator(item):
            item[key] = self.noise(item[key], randomize=False)
        return item

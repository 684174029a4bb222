"""Resampling to a spacing."""

from __future__ import annotations

import math
import os
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.data import MetaTensor
from monai.transforms import Spacingd

from custom_nets.errors import InputError


def physical_memory() -> int:
    """Returns the bytes of memory that this machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class ResampleSpacingd(Spacingd):
    """MONAI's `Spacingd`, for items of any content, whose results fit into memory.

    That of MONAI 1.6.0 and 1.6.1 takes every entry named `<key>_…` for a dictionary of meta data, and fails where
    there is another (MONAI Label adds `image_path`). Here it sees its own keys alone.
    """

    def __call__(self, data: Mapping[Hashable, Any], lazy: bool | None = None) -> dict[Hashable, Any]:
        """Resamples the entries of `keys`; all others stay as they are.

        Raises:
            InputError: when a result would be larger than the memory of this machine.
        """
        own = {key: data[key] for key in self.key_iterator(dict(data))}
        for key, volume in own.items():
            if isinstance(volume, MetaTensor):
                self._check_memory(volume, f"case {data.get('case', 'without a name')}: '{key}'")
        return {**data, **super().__call__(own, lazy)}

    def _check_memory(self, volume: MetaTensor, place: str) -> None:
        """Checks the size of a result, in float32."""
        given = volume.pixdim.numpy(force=True)
        wanted = np.resize(self.spacing_transform.pixdim, len(given))
        kept = np.isnan(wanted) | (wanted <= 0)  # MONAI leaves these axes as they are
        steps = np.where(kept, 1.0, given / np.where(kept, 1.0, wanted))
        shape = np.maximum(np.round(volume.shape[1:] * steps), 1).astype(int).tolist()
        needed, there = math.prod([len(volume), *shape]) * 4 / 2**30, physical_memory() / 2**30
        if needed > there:
            size, spacing = (" x ".join(f"{number:g}" for number in numbers) for numbers in (shape, given))
            msg = (
                f"{place} has a spacing of {spacing} mm; resampled it would be {size} voxels, {needed:,.0f} GiB, and "
                f"this machine has {there:,.0f} GiB: correct its header, or set a larger spacing"
            )
            raise InputError(msg)

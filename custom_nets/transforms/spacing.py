"""Resampling to a spacing."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.transforms import Spacingd


class ResampleSpacingd(Spacingd):
    """MONAI's `Spacingd`, for items of any content.

    That of MONAI 1.6.0 and 1.6.1 takes every entry named `<key>_…` for a dictionary of meta data, and fails where
    there is another (MONAI Label adds `image_path`). Here it sees its own keys alone.
    """

    def __call__(self, data: Mapping[Hashable, Any], lazy: bool | None = None) -> dict[Hashable, Any]:
        """Resamples the entries of `keys`; all others stay as they are."""
        own = {key: data[key] for key in self.key_iterator(dict(data))}
        return {**data, **super().__call__(own, lazy)}

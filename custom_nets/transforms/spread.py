"""Taking apart what an ensemble gives: the mean of its members, and how far they are apart."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import ensure_tuple_rep


class SplitSpreadd(MapTransform):
    """Splits `[2R, H, W, D]` (see `EnsembleInferer(spread=True)`) into the mean and the standard deviation `[R, ...]`.

    Args:
        keys: what to split; keeps the mean.
        names: where the standard deviation goes, one a key.
        allow_missing_keys: whether an item may lack a key.
    """

    def __init__(
        self, keys: KeysCollection, names: KeysCollection = "uncertainty", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.names = ensure_tuple_rep(names, len(self.keys))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Splits one item."""
        item = dict(data)
        for key, name in self.key_iterator(item, self.names):
            regions = len(item[key]) // 2
            item[key], item[name] = item[key][:regions], item[key][regions:]
        return item

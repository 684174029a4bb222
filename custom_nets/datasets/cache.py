"""Preprocessed cases kept on the disk: found again by what they were made from, never read when that has changed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaObj, MetaTensor, PersistentDataset
from monai.transforms import Compose
from monai.utils import enums

from custom_nets.datasets.hashing import hash_case, hash_settings
from custom_nets.io.files import atomic_file, remove_unfinished


class PersistentCaseDataset(PersistentDataset):
    """Computes the deterministic transforms of a case once and keeps the result in a folder.

    MONAI's `PersistentDataset` with `hash_case` and `hash_settings`: a replaced file or a changed setting is computed
    anew. Beyond MONAI's:

    - An item from the folder is what was computed, types and meta data included; `torch.load` reads it without
      running code (MONAI's own cannot read back the meta data of a NIfTI file so, and computes such a case each time).
    - A crop is stored without the image that it was cut from.
    - Files are written whole or not at all, by any number of processes; a damaged one is computed anew with a warning.
      A full disk costs a warning and the cache.
    - `set_data` never empties the folder.

    Args:
        data: the items.
        transform: transforms, or one `Compose` of them; kept are the results of those before the first random one.
        cache_dir: folder, made when it is absent; may be shared by data sets and runs, and deleted at any time. None
            keeps nothing. Items made with earlier settings stay in it.

    Raises:
        InputError: when a transform has a setting that cannot be compared.
    """

    def __init__(
        self,
        data: Sequence[Any],
        transform: Sequence[Callable[..., Any]] | Callable[..., Any],
        cache_dir: str | Path | None,
    ) -> None:
        if cache_dir is not None:
            remove_unfinished(cache_dir)
        chain = transform if isinstance(transform, Compose) else Compose(transform)
        super().__init__(
            data,
            chain.flatten(),  # MONAI keeps nothing from a Compose within a Compose
            cache_dir,
            hash_func=hash_case,
            hash_transform=hash_settings,
            track_meta=True,
        )

    def set_data(self, data: Sequence[Any]) -> None:
        """Replaces the items; what the folder holds stays valid."""
        self.data = data

    def _cachecheck(self, item_transformed: Any) -> Any:
        if self.cache_dir is None:
            return self._pre_transform(deepcopy(item_transformed))
        file = self.cache_dir / f"{hash_case(item_transformed).decode()}{self.transform_hash}.pt"
        if file.is_file():
            _allow_meta_data()
            try:
                return torch.load(file, weights_only=True)
            except Exception:  # damage shows as almost any exception, depending on the byte
                msg = f"{file}: cannot be read (damaged, or holds more than arrays, numbers and texts), computed anew"
                warnings.warn(msg, stacklevel=2)
        result = _own_storage(self._pre_transform(deepcopy(item_transformed)))
        try:
            with atomic_file(file) as temporary:
                torch.save(result, temporary)
        except (OSError, RuntimeError) as error:  # PyTorch tells a full disk as the latter
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
            msg = f"{self.cache_dir}: cannot keep preprocessed cases there ({reason}); free space or set cache_dir"
            warnings.warn(msg, stacklevel=2)
        return result


def _own_storage(value: Any) -> Any:
    """Copies tensors that are a part of larger ones: `torch.save` would write all of the larger one."""
    if isinstance(value, torch.Tensor):
        needed = value.numel() * value.element_size()
        return (
            value.clone(memory_format=torch.contiguous_format) if value.untyped_storage().nbytes() > needed else value
        )
    if isinstance(value, dict):
        return {key: _own_storage(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_own_storage(part) for part in value]
    return value


def _allow_meta_data() -> None:
    """Lets `torch.load` read NumPy's arrays of plain numbers and texts, MONAI's meta data and record of transforms."""
    rebuild: Any = [np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0], np.ndarray, np.dtype]
    kinds = {type(np.dtype(code)) for code in np.typecodes["All"] if code != "O"}
    names = [kind for kind in vars(enums).values() if isinstance(kind, type) and issubclass(kind, Enum)]
    torch.serialization.add_safe_globals([*rebuild, *kinds, *names, MetaObj, MetaTensor])

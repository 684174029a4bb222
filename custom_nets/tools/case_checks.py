"""Checks of the cases of a data set, voxels included, as training and inference would read them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from custom_nets.datasets.record import get_record
from custom_nets.datasets.validation import check_case, own_channels
from custom_nets.transforms import CheckCased, LabelsToRegionsd, LoadCased


def check_voxels_of_case(
    item: Mapping[str, Any],
    modalities: Sequence[str] | None = None,
    missing_modalities: bool = False,
    sums: list[tuple[str, bytes]] | None = None,
) -> None:
    """Checks files, headers and voxels of one case, and warns of voxels unlike those that models are trained with.

    Args:
        item: see `check_case`.
        modalities: likewise.
        missing_modalities: likewise.
        sums: gains the case with a checksum of the voxels of each channel, see `duplicate_notes`.

    Raises:
        InputError: naming case and file: as `check_case`, `LoadCased`, `CheckCased` and `LabelsToRegionsd` do.
    """
    check_case(item, modalities, missing_modalities)
    names = tuple(modalities or own_channels(item)) or None
    keys = [key for key in ("image", "label") if key in item]
    case: dict[Any, Any] = dict(item)
    case = LoadCased(keys, modalities=names)(case)
    case = CheckCased(keys, names, missing_modalities=missing_modalities, dataset=item.get("dataset"))(case)
    if "label" in item and item.get("dataset") and get_record(item["dataset"]).labels is not None:
        LabelsToRegionsd("label", item["dataset"])(case)
    if sums is not None:
        sums.extend((str(case["case"]), _sum(channel)) for channel in case["image"].as_tensor() if channel.any())


def _sum(channel: torch.Tensor) -> bytes:
    whole = hashlib.blake2b(str(tuple(channel.shape)).encode())
    whole.update(channel.contiguous().numpy().data)
    return whole.digest()

"""Volumes of regions, in millilitres."""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data.utils import affine_to_spacing
from monai.transforms import MapTransform
from monai.utils import convert_to_numpy, optional_import

from custom_nets.errors import InputError
from custom_nets.files import atomic_file
from custom_nets.transforms.meshes import bounding_box, case_and_affine, suffix_of_each


def voxel_millilitres(affine: NdarrayOrTensor) -> float:
    """Returns the volume of one voxel, the determinant of its edges (true for oblique and sheared grids too).

    Args:
        affine: voxel indices to millimetres `[4, 4]`.
    """
    matrix = convert_to_numpy(affine).astype(np.float64)
    return float(abs(np.linalg.det(matrix[:3, :3]))) / 1000


def count_components(mask: np.ndarray) -> int:
    """Returns the number of connected parts of a binary mask `[H, W, D]`; voxels that share a corner are connected."""
    label, _ = optional_import("scipy.ndimage", name="label")
    box = bounding_box(mask)
    if box is None:
        return 0
    return int(label(mask[box], structure=np.ones((3, 3, 3)))[1])


def region_volumes(
    regions: NdarrayOrTensor, affine: NdarrayOrTensor, names: Sequence[str] = ("WT", "TC", "ET"), threshold: float = 0.5
) -> dict[str, dict[str, float | int]]:
    """Measures each region.

    Args:
        regions: probabilities or binary `[R, H, W, D]`.
        affine: voxel indices to millimetres `[4, 4]`.
        names: name of each channel.
        threshold: a region holds the voxels above it.

    Returns:
        For each name: `ml` (millilitres), `voxels`, and `components` (connected parts, corners connect).

    Raises:
        InputError: when there are not as many names as channels.
    """
    if len(regions) != len(names):
        msg = f"{len(regions)} region channels, but {len(names)} names ({', '.join(names)}): give one name a channel"
        raise InputError(msg)
    unit = voxel_millilitres(affine)
    table: dict[str, dict[str, float | int]] = {}
    for name, mask in zip(names, convert_to_numpy(regions) > threshold, strict=True):
        voxels = int(np.count_nonzero(mask))
        table[name] = {"ml": round(voxels * unit, 6), "voxels": voxels, "components": count_components(mask)}
    return table


class SaveRegionVolumesd(MapTransform):
    """Writes one JSON file a case, `<output_dir>/<case>/<case>_volumes<suffix>.json`, with the volume of each region.

    It holds `case`, `spacing_mm` and, for each region, what `region_volumes` measures. The item is returned unchanged.

    Args:
        keys: MetaTensors `[R, H, W, D]` (probabilities or binary) on the grid whose affine they carry.
        output_dir: folder of all cases.
        regions: name of each channel.
        threshold: a region holds the voxels above it.
        suffix: ends the file name, such as "_label"; one for all keys or one a key.
        case_key: where the item names its case; without it the name of the file read serves.
        allow_missing_keys: whether an item may lack a key.

    Raises:
        InputError: when two keys would write the same file.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | os.PathLike,
        regions: Sequence[str] = ("WT", "TC", "ET"),
        threshold: float = 0.5,
        suffix: Sequence[str] | str = "",
        case_key: str = "case",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.output_dir = Path(output_dir)
        self.regions = tuple(regions)
        self.threshold = threshold
        self.suffixes = suffix_of_each(self.keys, suffix)
        self.case_key = case_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Writes the volumes of one case.

        Raises:
            InputError: when a tensor lacks its affine or the right number of channels, or the item names no case.
        """
        item = dict(data)
        for key, suffix in self.key_iterator(item, self.suffixes):
            case, affine = case_and_affine(item, key, self.regions, self.case_key)
            report = {
                "case": case,
                "spacing_mm": [round(float(side), 6) for side in affine_to_spacing(affine)],
                "regions": region_volumes(item[key], affine, self.regions, self.threshold),
            }
            with atomic_file(self.output_dir / case / f"{case}_volumes{suffix}.json") as file:
                file.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        return item

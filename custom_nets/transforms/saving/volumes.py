"""Volumes of regions, in millilitres."""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data.utils import affine_to_spacing
from monai.transforms import MapTransform
from monai.utils import convert_to_numpy
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

from custom_nets.datasets.record import get_record
from custom_nets.errors import InputError
from custom_nets.io.files import atomic_file
from custom_nets.io.readers import ORIENTATION_KEY
from custom_nets.transforms.regions import check_names, dataset_of
from custom_nets.transforms.saving.case_files import result_file
from custom_nets.transforms.saving.meshes import as_array, case_and_affine, region_in_box, suffix_of_each
from custom_nets.transforms.slabs import split_slabs


def voxel_millilitres(affine: NdarrayOrTensor) -> float:
    """Returns the volume of one voxel, the determinant of its edges (true for oblique and sheared grids too).

    Args:
        affine: voxel indices to millimetres `[4, 4]`.
    """
    matrix = convert_to_numpy(affine).astype(np.float64)
    return float(abs(np.linalg.det(matrix[:3, :3]))) / 1000


def region_millilitres(regions: torch.Tensor, affine: NdarrayOrTensor, threshold: float = 0.5) -> list[float]:
    """Returns the volume of each region, the voxels above the threshold.

    Args:
        regions: probabilities or binary `[R, H, W, D]`.
        affine: voxel indices to millimetres `[4, 4]`.
        threshold: a region holds the voxels above it.
    """
    # Slab by slab: PyTorch sums truth values as int64, eight bytes a voxel.
    parts = [torch.count_nonzero(slab > threshold, dim=(1, 2, 3)) for slab in split_slabs(regions)]
    return (torch.stack(parts).sum(0).double() * voxel_millilitres(affine)).tolist()


def label_parts(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers the connected parts of a binary mask `[H, W, D]`; voxels that share a corner are connected.

    Returns:
        The number of each voxel's part from 1 on, 0 outside the mask (uint16 where there are few enough), and the
        voxels of each part `[K]`.
    """
    corners = np.ones((3, 3, 3))
    try:
        parts, count = ndimage.label(mask, corners, output=np.uint16)
    except RuntimeError:  # more than 65,535 parts
        parts, count = ndimage.label(mask, corners)
    sizes = np.zeros(count + 1, dtype=np.int64)
    for plane in parts:  # of all voxels at once bincount would make an int64 copy
        sizes += np.bincount(plane.ravel(), minlength=count + 1)
    return parts, sizes[1:]


def longest_diameter(voxels: np.ndarray, axes: np.ndarray) -> float:
    """Returns the longest diameter of a part: between its farthest voxel centres, plus one voxel along that line.

    A row of n voxels is n voxels long; one voxel alone is as long as its longest edge.

    Args:
        voxels: indices `[N, 3]`.
        axes: edges of a voxel in millimetres, as columns `[3, 3]`.
    """
    try:
        ends = voxels[ConvexHull(voxels).vertices]
    except (QhullError, ValueError):  # flat, or too few voxels for a hull
        ends = voxels
    longest = (0.0, float(np.linalg.norm(axes, axis=0).max()))
    for index in range(len(ends) - 1):
        steps = ends[index + 1 :] - ends[index]
        apart = np.linalg.norm(steps @ axes.T, axis=1).round(6)
        farthest = apart.max()
        fewest = np.abs(steps[apart == farthest]).max(axis=1).min()  # voxels on the way
        longest = max(longest, (float(farthest), float(farthest / fewest)))
    return sum(longest)


def _measure_part(part: np.ndarray, voxels: int, start: np.ndarray, affine: np.ndarray) -> dict[str, Any]:
    """Measures one connected part, a mask `[h, w, d]` whose first voxel has the index `start` in the volume."""
    counts = [part.sum(axis=tuple({0, 1, 2} - {axis})) for axis in range(3)]
    centre = start + [count @ np.arange(len(count)) / voxels for count in counts]
    # The ends of lines along the last axis hold all corners of the convex hull.
    lines = np.argwhere(part.any(axis=2))
    along = part[lines[:, 0], lines[:, 1]]
    first, last = along.argmax(axis=1), part.shape[2] - 1 - along[:, ::-1].argmax(axis=1)
    ends = np.unique([[*line, end] for side in (first, last) for line, end in zip(lines, side, strict=True)], axis=0)
    return {
        "ml": round(voxels * voxel_millilitres(affine), 6),
        "diameter_mm": round(longest_diameter(ends, affine[:3, :3]), 3),
        "centre_mm": (affine[:3, :3] @ centre + affine[:3, 3]).round(3).tolist(),
    }


def region_volumes(
    regions: NdarrayOrTensor,
    affine: NdarrayOrTensor,
    names: Sequence[str],
    threshold: float = 0.5,
    parts: Sequence[str] = (),
) -> dict[str, dict[str, Any]]:
    """Measures each region, and on request its connected parts.

    Args:
        regions: probabilities or binary `[R, H, W, D]`.
        affine: voxel indices to RAS millimetres `[4, 4]`.
        names: name of each channel.
        threshold: a region holds the voxels above it.
        parts: names of the regions whose parts are listed.

    Returns:
        For each name: `ml` (millilitres), `voxels`, and `components` (connected parts, corners connect). Where asked
        for, `parts`, largest first, each with `ml`, `diameter_mm` (see `longest_diameter`) and `centre_mm` (the mean of
        its voxels in RAS millimetres).

    Raises:
        InputError: when there are not as many names as channels, or a region of `parts` is unknown.
    """
    if len(regions) != len(names):
        msg = f"{len(regions)} region channels, but {len(names)} names ({', '.join(names)}): give one name a channel"
        raise InputError(msg)
    check_names(parts, names)
    matrix = convert_to_numpy(affine).astype(np.float64)
    table: dict[str, dict[str, Any]] = {}
    for name, field in zip(names, as_array(regions), strict=True):
        mask, box = region_in_box(field, threshold)
        labelled, sizes = label_parts(mask)
        voxels = int(sizes.sum())
        table[name] = {"ml": round(voxels * voxel_millilitres(matrix), 6), "voxels": voxels, "components": len(sizes)}
        if name in parts:
            boxes = ndimage.find_objects(labelled, len(sizes)) if len(sizes) else []
            corner = np.array([side.start for side in box])
            table[name]["parts"] = [
                _measure_part(
                    labelled[boxes[k]] == k + 1, int(sizes[k]), corner + [side.start for side in boxes[k]], matrix
                )
                for k in np.argsort(-sizes, kind="stable")
            ]
    return table


class RegionVolumesd(MapTransform):
    """Puts the volume of each region into the item as `result`, which MONAI Label hands to its client as JSON.

    `{"volumes_ml": {"WT": 31.5, ...}, "label_numbers": {"WT": 2, ...}}`: the second tells which number of the label map
    holds what is in that region and in no inner one.

    Args:
        keys: one MetaTensor `[R, H, W, D]` (probabilities or binary) on the grid whose affine it carries.
        regions: name of each channel.
        dataset: record of the numbers, see `get_record`; the item's own (`dataset_key`) wins where it has the regions.
        threshold: a region holds the voxels above it.
        dataset_key: where the item names its record.
    """

    def __init__(
        self,
        keys: KeysCollection,
        regions: Sequence[str],
        dataset: str,
        threshold: float = 0.5,
        dataset_key: str = "dataset",
    ) -> None:
        super().__init__(keys)
        self.regions = tuple(regions)
        self.dataset = dataset
        self.threshold = threshold
        self.dataset_key = dataset_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Measures one case."""
        item = dict(data)
        for key in self.key_iterator(item):
            labels = get_record(dataset_of(item.get(self.dataset_key), self.dataset, self.regions)).require_labels()
            volumes = region_millilitres(item[key], item[key].affine, self.threshold)
            item["result"] = {
                "volumes_ml": {name: round(ml, 6) for name, ml in zip(self.regions, volumes, strict=True)},
                "label_numbers": {region.name: region.written for region in labels.select(self.regions)},
            }
        return item


class SaveRegionVolumesd(MapTransform):
    """Writes one JSON file a case, `<output_dir>/<case>/<case>_volumes<suffix>.json`, with the volume of each region.

    It holds `case`, `spacing_mm`, `orientation`, of a known record `dataset` and `labels` (name of each number of the
    label map) and, for each region, what `region_volumes` measures. Orientation tells
    from what the place of the voxels is known, see `VolumeHeader`: "unknown" where left and right cannot be told, null
    where `LoadCased` did not read the image. The item is returned unchanged.

    Args:
        keys: MetaTensors `[R, H, W, D]` (probabilities or binary) on the grid whose affine they carry.
        output_dir: folder of all cases.
        regions: name of each channel.
        threshold: a region holds the voxels above it.
        suffix: ends the file name, such as "_label"; one for all keys or one a key.
        case_key: where the item names its case; without it the name of the file read serves.
        allow_missing_keys: whether an item may lack a key.
        parts: names of the regions whose connected parts are listed with their sizes.
        dataset: record of the numbers, see `get_record`; the item's own (`dataset_key`) wins where it has the regions;
            None for none.
        dataset_key: where the item names its record.

    Raises:
        InputError: when two keys would write the same file, or a region of `parts` is unknown.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | os.PathLike,
        regions: Sequence[str],
        threshold: float = 0.5,
        suffix: Sequence[str] | str = "",
        case_key: str = "case",
        allow_missing_keys: bool = False,
        parts: Sequence[str] = (),
        dataset: str | None = None,
        dataset_key: str = "dataset",
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        check_names(parts, regions)
        self.parts = tuple(parts)
        self.dataset = dataset
        self.dataset_key = dataset_key
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
                "orientation": item[key].meta.get(ORIENTATION_KEY),
                **self._numbers(item),
                "regions": region_volumes(item[key], affine, self.regions, self.threshold, self.parts),
            }
            with atomic_file(result_file(self.output_dir, case, f"_volumes{suffix}.json")) as file:
                file.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        return item

    def _numbers(self, item: Mapping[Hashable, Any]) -> dict[str, Any]:
        """Returns the item's record and its label numbers."""
        if self.dataset is None:
            return {}
        record = get_record(dataset_of(item.get(self.dataset_key), self.dataset, self.regions))
        return {"dataset": record.name, "labels": {str(n): name for n, name in record.require_labels().names}}

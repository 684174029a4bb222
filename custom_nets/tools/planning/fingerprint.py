"""The fingerprint of a data set: all that a plan depends on, measured once."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from monai.transforms import Orientationd
from scipy import ndimage
from tqdm import tqdm

from custom_nets.datasets import check_datalist, datalist, recognise
from custom_nets.datasets.record import Channel, Record
from custom_nets.errors import InputError, first_names
from custom_nets.transforms import CheckCased, LabelsToRegionsd, LoadCased

ORIENTATION = "LPS"
"""Orientation in which axes are counted, that of the bundles for MRI; a plan needs the axes, not their directions."""

MOST_CASES = 60
"""Cases whose voxels are read, evenly chosen: percentiles of more say the same."""

THICK = 4.0
"""Images whose longest side has so many times the voxels of the shortest one have thick slices, whatever they claim."""

SHORTER = 2 / 3
"""Of the field of view: across thick slices against along them, for want of a header that tells."""

SPECK = 8
"""Voxels; a smaller component of a label is taken for a slip of the pen."""

_SAMPLE = 10_000
_ENDS = (
    {"left", "right", "l", "r", "lt", "rt"},
    {"anterior", "posterior", "ventral", "dorsal", "front", "back"},
    {"superior", "inferior", "cranial", "caudal", "upper", "lower", "top", "bottom"},
)
"""Words for the two ends of each axis, in labels that tell them apart."""


@dataclass(frozen=True)
class Intensities:
    """Intensities of one channel.

    Args:
        least: the darkest voxel of all cases.
        low: 0.5th percentile within the labelled regions.
        median: within them.
        high: 99.5th percentile within them.
        zeros: share of voxels that are exactly 0, the median of the cases.
    """

    least: float
    low: float
    median: float
    high: float
    zeros: float


@dataclass(frozen=True)
class RegionSizes:
    """Sizes of the parts of one region.

    Args:
        name: of the region.
        present: share of the cases that have it.
        thinnest: shortest side of the box round a connected component, in voxels: 5th percentile of the components.
        thinnest_mm: the same in mm.
    """

    name: str
    present: float
    thinnest: float
    thinnest_mm: float


@dataclass(frozen=True)
class Fingerprint:
    """A data set as a plan sees it; one of headers alone lacks intensities and sizes.

    Args:
        title: of the data set.
        channels: of an image.
        regions: names of the regions.
        shapes: of each labelled case, voxels along left-right, front-back and up-down.
        spacings: mm likewise.
        contents: shape of the part of each case that is not empty; those of all when headers alone were read.
        intensities: of each channel; empty when headers alone were read.
        sizes: of each region; likewise.
        cases: number of labelled cases; 0: as many as shapes.
        nested: whether a region lies within another.
        mirrors: axes along which images may be mirrored, 0 left-right, 1 front-back, 2 up-down: no label is named after
            an end of the axis, and the record does not forbid to exchange left and right.
        claimed: median spacing of the headers, where the shapes belie it and `spacings` are what is assumed instead;
            else None.
    """

    title: str
    channels: tuple[Channel, ...]
    regions: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    spacings: tuple[tuple[float, ...], ...]
    contents: tuple[tuple[int, ...], ...] = ()
    intensities: tuple[Intensities, ...] = ()
    sizes: tuple[RegionSizes, ...] = ()
    cases: int = 0
    nested: bool = False
    mirrors: tuple[int, ...] = (0, 1, 2)
    claimed: tuple[float, ...] | None = None

    @property
    def count(self) -> int:
        """Number of labelled cases."""
        return self.cases or len(self.shapes)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Median spacing along each axis, mm."""
        return tuple(float(side) for side in np.median(self.spacings, axis=0))

    @property
    def is_ct(self) -> bool:
        """Whether an image is one CT."""
        return [channel.kind for channel in self.channels] == ["CT"]


def labelled_data(
    dataset_dir: str | os.PathLike, dataset: str | os.PathLike | None = None
) -> tuple[Record, list[dict[str, Any]]]:
    """Returns the record of a data set and its labelled cases, whose files and headers are without fault.

    Raises:
        InputError: when there is more than one data set, no label, a label in few cases alone, a single case, a slice
            in place of a volume, or a faulty case.
    """
    found = [entry for entry in recognise(dataset_dir, dataset) if entry.cases]
    records = [entry.record for entry in found if entry.record is not None]
    if len(found) != 1 or not records:
        titles = ", ".join(record.title for record in records) or "files whose names do not tell images from labels"
        msg = (
            f"{dataset_dir}: holds {titles}; a bundle is for one data set: name its record (--dataset NAME, or a FILE "
            "of your own, in which 'pairs' tells images from labels, see docs/data_sets.md)"
        )
        raise InputError(msg)
    record = records[0]
    labelled = sum(bool(case.label) for case in found[0].cases)
    if record.labels is None or not labelled:
        what = "its record names no label" if record.labels is None else "no case has a label"
        advice = "add the labels (labelsTr beside imagesTr, or as a record says)"
        if record.labels is None and labelled:
            what = f"{labelled} cases have a label, and nothing names its numbers"
            advice = "add a table of 'index' and 'name' (dseg.tsv)" if "bids" in record.layouts else "name them"
        msg = (
            f"{dataset_dir}: {what}; a bundle learns from labelled cases: {advice}, or give a record with 'labels' "
            "(--dataset FILE)"
        )
        raise InputError(msg)
    items = datalist(dataset_dir, "required", check=False, dataset=dataset, modalities=record.channel_names)
    if len(items) < 2:
        msg = f"{dataset_dir}: holds 1 labelled case; at least 2 are needed, one to learn from and one to validate with"
        raise InputError(msg)
    _, faults = check_datalist(items)
    if faults:
        msg = "\n".join([f"{dataset_dir}: {len(faults)} of {len(items)} cases cannot be used:", *faults[:5]])
        raise InputError(msg)
    return record, items


def measure(record: Record, items: Sequence[Mapping[str, Any]], spacing: Sequence[float] | None = None) -> Fingerprint:
    """Reads the headers of all cases and the voxels of up to `MOST_CASES` of them, with a progress bar.

    Args:
        record: of the data set.
        items: its labelled cases, see `labelled_data`.
        spacing: mm along left-right, front-back and up-down of all cases, where headers are wrong; None: as these say.

    Raises:
        InputError: when a file cannot be read, a label holds a number that the record does not know, an image is one
            slice, or none of the cases read has a voxel of any region.
    """
    labels = record.require_labels()
    keys = ["image", "label"]
    steps = (  # no Compose, which hides what was wrong behind a traceback of its own
        LoadCased(keys, modalities=record.channel_names),
        CheckCased(keys, modalities=record.channel_names, voxel_warnings=False),
        LabelsToRegionsd("label", dataset=record.name, regions=labels.region_names),
        Orientationd(keys, axcodes=ORIENTATION, labels=None),
    )
    chosen = [items[i] for i in np.unique(np.linspace(0, len(items) - 1, MOST_CASES).round().astype(int))]
    cases = []
    for item in tqdm(chosen, "reading cases", unit="case", file=sys.stderr, dynamic_ncols=True):
        case: Any = dict(item)
        for step in steps:
            case = step(case)
        image, regions = (case[key].as_subclass(torch.Tensor).numpy() for key in keys)
        if 1 in image.shape[1:]:
            shape = " x ".join(map(str, image.shape[1:]))
            msg = f"case {item['case']}: one slice of {shape}, a 2D image; occupancy networks learn from volumes"
            raise InputError(msg)
        own = tuple(float(side) for side in case["image"].pixdim)
        cases.append(_measure_case(image, regions, own if spacing is None else tuple(spacing)))
    sizes = tuple(
        _region_sizes(name, [case["parts"][i] for case in cases], [case["present"][i] for case in cases])
        for i, name in enumerate(labels.region_names)
    )
    if not any(size.present for size in sizes):
        named = first_names([item["case"] for item in chosen])
        msg = f"cases {named}: no label holds a voxel of {', '.join(labels.region_names)}; give the labels, or a record"
        raise InputError(msg)
    numbers = [set(region.numbers) for region in labels.regions]
    names = [*labels.region_names, *(name for _, name in labels.names)]
    fingerprint = Fingerprint(
        title=record.title,
        channels=record.channels,
        regions=labels.region_names,
        shapes=tuple(case["shape"] for case in cases),
        spacings=tuple(case["spacing"] for case in cases),
        contents=tuple(case["content"] for case in cases),
        intensities=tuple(_intensities([case["channels"][i] for case in cases]) for i in range(len(record.channels))),
        sizes=sizes,
        cases=len(items),
        nested=any(inner < outer for inner in numbers for outer in numbers),
        mirrors=_mirrors(names, record.mirrors),
    )
    return fingerprint if spacing is not None else correct_spacing(fingerprint)


def correct_spacing(fingerprint: Fingerprint) -> Fingerprint:
    """Assumes thick slices where headers claim isotropic voxels and the shape says otherwise.

    Files made of pictures say 1 mm along each axis. A field of view of 256x256x22 mm is none of a body, though: that
    across the slices is taken to be `SHORTER` times that along them. One CT's network counts in mm, by its headers.
    """
    shape = np.median(fingerprint.shapes, axis=0)
    spacing = np.array(fingerprint.spacing)
    across, longest = int(shape.argmin()), float(shape.max())
    isotropic = spacing.max() / spacing.min() < 1.01
    if fingerprint.is_ct or not isotropic or longest < THICK * shape[across]:
        return fingerprint
    times = [1.0] * 3
    times[across] = longest * SHORTER / float(shape[across])
    return replace(
        fingerprint,
        spacings=tuple(tuple(np.multiply(own, times).tolist()) for own in fingerprint.spacings),
        claimed=fingerprint.spacing,
    )


def _mirrors(names: Sequence[str], sides: bool) -> tuple[int, ...]:
    words = {word for name in names for word in re.split(r"[^a-z]+", name.lower())}
    return tuple(axis for axis, ends in enumerate(_ENDS) if not ends & words and (sides or axis != 0))


def _measure_case(image: np.ndarray, regions: np.ndarray, spacing: tuple[float, ...]) -> dict[str, Any]:
    inside = regions.any(axis=0)
    content = ndimage.find_objects((image > 0).any(axis=0).astype(np.uint8))
    channels = []
    for channel in image:
        voxels = channel[inside]
        step = max(1, len(voxels) // _SAMPLE)
        channels.append((float(channel.min()), voxels[::step], float((channel == 0).mean())))
    return {
        "shape": image.shape[1:],
        "spacing": spacing,
        "content": tuple(int(side.stop - side.start) for side in content[0]) if content else image.shape[1:],
        "channels": channels,
        "present": [bool(region.any()) for region in regions],
        "parts": [_parts(region, spacing) for region in regions],
    }


def _parts(region: np.ndarray, spacing: tuple[float, ...]) -> list[tuple[int, float]]:
    """Returns the shortest side, in voxels and in mm, of each connected component but specks."""
    components, _ = ndimage.label(region)
    counts = np.bincount(components.ravel())
    sides = [
        [side.stop - side.start for side in box]
        for number, box in enumerate(ndimage.find_objects(components), start=1)
        if counts[number] >= SPECK
    ]
    return [(min(box), min(math.prod(pair) for pair in zip(box, spacing, strict=True))) for box in sides]


def _region_sizes(name: str, cases: Sequence[Sequence[tuple[int, float]]], present: Sequence[bool]) -> RegionSizes:
    parts = np.array([part for case in cases for part in case] or [(0, 0.0)], dtype=float)
    voxels, millimetres = np.percentile(parts, 5, axis=0)
    return RegionSizes(name, sum(present) / len(present), float(voxels), float(millimetres))


def _intensities(cases: Sequence[tuple[float, np.ndarray, float]]) -> Intensities:
    voxels = np.concatenate([voxels for _, voxels, _ in cases])
    low, median, high = np.percentile(voxels, [0.5, 50, 99.5]) if len(voxels) else (0.0, 0.0, 0.0)
    zeros = float(np.median([zeros for _, _, zeros in cases]))
    return Intensities(min(least for least, _, _ in cases), float(low), float(median), float(high), zeros)

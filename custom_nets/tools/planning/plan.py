"""The plan: the keys of a bundle that suit a data set and a memory, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from custom_nets.errors import InputError
from custom_nets.inferers import OccupancyInferer
from custom_nets.inferers.memory import estimate_memory
from custom_nets.networks import NvNet, PyramidOSSNet, PyramidSettings
from custom_nets.tools.planning.fingerprint import Fingerprint
from custom_nets.tools.planning.training_memory import estimate_training_memory

NetworkName = Literal["ossnet", "nvnet"]
Grid = Literal["size", "spacing", "crops"]
Scaling = Literal["window", "nonzero", "whole"]

BESIDE = 0.5
"""GiB that Python and PyTorch take beside the tensors."""

CELLS = {"size": 900_000, "spacing": 3_000_000}
"""Cells of the encoder's finest level: about as many as those of the shipped bundles."""

RESAMPLED_VOXELS = 64_000_000
"""Of a typical image at the bundle's spacing: a CT of the trunk at 1 mm."""

SMALL = 32_000
"""Cells up to which four images make a step, and not two, and the finest level has a second convolution."""

TINY = 32
"""Voxels; larger images are downsampled at least by 2, for their detail is what the decoder sees."""

STEPS = 10_000
"""Of a whole training, about those of the shipped bundles."""

VARIED = 1.5
"""Spacings whose 90th percentile is so many times their 10th are brought to one."""


@dataclass(frozen=True)
class Choice:
    """One line of a plan.

    Args:
        key: of the bundle's configs.
        value: planned for it.
        reason: a sentence for people.
    """

    key: str
    value: Any
    reason: str


@dataclass(frozen=True)
class Plan:
    """A plan.

    Args:
        network: ossnet (Pyramid OSS-Net) or nvnet.
        grid: whether images are brought to one size, to one spacing, or seen as crops.
        scaling: of intensities: a window of Hounsfield units, by the voxels that are not 0, or by all.
        mirrors: axes along which images may be mirrored in training.
        choices: keys with value and reason.
        notes: what a person should know besides.
        training_memory: GiB that a step of training takes, estimated.
        inference_memory: GiB that inference of the largest case takes, estimated; None where no estimate is made.
    """

    network: NetworkName
    grid: Grid
    scaling: Scaling
    mirrors: tuple[int, ...]
    choices: tuple[Choice, ...]
    notes: tuple[str, ...]
    training_memory: float
    inference_memory: float | None

    @property
    def keys(self) -> dict[str, Any]:
        """The value of each key."""
        return {choice.key: choice.value for choice in self.choices}

    @property
    def usual_mirrors(self) -> tuple[int, ...]:
        """Axes along which the bundles' own augmentation mirrors."""
        if self.grid == "crops":
            return (0, 1, 2)
        return () if self.grid == "spacing" and self.scaling == "window" else (0, 1)


def make_plan(fingerprint: Fingerprint, network: NetworkName = "ossnet", memory: float = 8.0) -> Plan:
    """Plans a bundle.

    Args:
        fingerprint: of the data set.
        network: ossnet or nvnet.
        memory: GiB of the device that trains.

    Raises:
        InputError: when nothing fits into the memory.
    """
    if memory <= BESIDE:
        raise InputError(_too_little(memory))
    scaling, scaling_choices = _plan_scaling(fingerprint, network)
    if network == "nvnet":
        grid: Grid = "crops"
        space, needed = _plan_crops(fingerprint, memory)
        batch_size, inference = 1, None
    else:
        spread = _spacing_spread(fingerprint)
        grid = "spacing" if fingerprint.is_ct or spread > VARIED else "size"
        plan_space = _plan_spacing if grid == "spacing" else _plan_size
        space, batch_size, needed, inference = plan_space(fingerprint, memory)
    choices = [*space, *scaling_choices, *_plan_length(fingerprint, batch_size)]
    return Plan(
        network=network,
        grid=grid,
        scaling=scaling,
        mirrors=fingerprint.mirrors,
        choices=tuple(choices),
        notes=tuple(_notes(fingerprint, network, grid, memory, inference)),
        training_memory=needed,
        inference_memory=inference,
    )


def _plan_size(fingerprint: Fingerprint, memory: float) -> tuple[list[Choice], int, float, float]:
    """Plans an occupancy network on images of one size, whose downsampling may differ by axis."""
    size, reason = _image_size(fingerprint)
    spacing, finest = fingerprint.spacing, min(fingerprint.spacing)
    for factor in range(1 if max(size) <= TINY else 2, 33):
        downsampling = [min(max(1, round(finest * factor / side)), 32) for side in spacing]
        cells = [math.ceil(side / d) for side, d in zip(size, downsampling, strict=True)]
        if math.prod(cells) > CELLS["size"]:
            continue
        channels, points = _channels(cells), _points(math.prod(cells))
        batch_size = _batch_size(math.prod(cells), fingerprint.count)
        depths = [2] * len(channels) if math.prod(cells) <= SMALL else None
        network = PyramidOSSNet(
            len(fingerprint.channels),
            len(fingerprint.regions),
            downsampling=downsampling,
            channels=channels,
            settings=PyramidSettings(depths=depths),
        )
        shape = (len(fingerprint.channels), *size)
        needed = estimate_training_memory(network, shape, batch_size, points)
        if needed + BESIDE <= memory:
            break
    else:
        raise InputError(_too_little(memory))
    step, step_reason = _lattice(fingerprint, "voxel", 2)
    cell = " x ".join(f"{side * d:.3g}" for side, d in zip(spacing, downsampling, strict=True))
    choices = [
        Choice("image_size", size, reason),
        Choice(
            "downsampling", downsampling, f"cells of the encoder are {cell} mm, as alike along each axis as they can"
        ),
        Choice("channels", channels, f"{len(channels)} levels, until the longest side of {max(cells)} cells is short"),
        Choice("depths", depths, "two convolutions on every level" if depths else "one on the finest level, two below"),
        Choice("num_points", points, "of an image in training: about the work of the encoder again"),
        Choice("cache_rate", *_cached(fingerprint, math.prod(size), memory)),
        Choice("coarse_step", step, step_reason),
        Choice("prior", "none", "no object is lost that the encoder's own coarse segmentation misses"),
        Choice("scan_step", None, "has a use with the prior 'restrict' alone"),
    ]
    largest = (shape[0], *(max(sides) for sides in zip(size, *_contents(fingerprint), strict=True)))
    inference = estimate_memory(network, OccupancyInferer(), largest, torch.device("cpu"))["peak"]
    return choices, batch_size, needed, inference


def _plan_spacing(fingerprint: Fingerprint, memory: float) -> tuple[list[Choice], int, float, float]:
    """Plans an occupancy network on images of one spacing, the same along each axis."""
    lengths = np.multiply(fingerprint.shapes, fingerprint.spacings)
    typical, large = np.median(lengths, axis=0), np.percentile(lengths, 95, axis=0)
    finest = float(np.median(np.min(fingerprint.spacings, axis=1)))
    least = (float(np.prod(typical)) / RESAMPLED_VOXELS) ** (1 / 3)
    spacing = float(f"{max(finest, least):.2g}")
    size = [max(math.ceil(length / spacing), 8) for length in large]
    count, ct = len(fingerprint.channels), fingerprint.is_ct
    for downsampling in range(1, 33):
        cells = [math.ceil(length / spacing / downsampling) for length in typical]
        if math.prod(cells) > CELLS["spacing"]:
            continue
        channels, points = _channels(cells), _points(math.prod(cells))
        batch_size = _batch_size(math.prod(cells), fingerprint.count)
        network = PyramidOSSNet(
            count,
            len(fingerprint.regions),
            spacing=1.0,  # images without an affine, as those of an estimate, count as 1 mm: here a step
            downsampling=downsampling,
            channels=channels,
            contrast=(0.0, 1.0) if ct else None,
        )
        needed = estimate_training_memory(network, (count, *size), batch_size, points)
        if needed + BESIDE <= memory:
            break
    else:
        raise InputError(_too_little(memory))
    why = f"the median of the finest axis is {finest:.3g} mm" + (
        ""
        if least <= finest
        else f", at which an image would have more than {RESAMPLED_VOXELS // 10**6} million voxels"
    )
    step, step_reason = _lattice(fingerprint, "mm", spacing * 4)
    choices = [
        Choice("spacing", spacing, f"mm, for all axes and cases: {why}"),
        Choice(
            "downsampling",
            downsampling,
            f"cells of the encoder are {spacing * downsampling:.3g} mm, the same along each axis as steps in mm are",
        ),
        Choice("channels", channels, f"{len(channels)} levels, until the longest side of {max(cells)} cells is short"),
        Choice("num_points", points, "of an image in training: about the work of the encoder again"),
        Choice("coarse_step", step, step_reason),
        Choice(
            "candidate_step",
            step / 2 if fingerprint.nested else None,
            "mm, inside the outermost region" if fingerprint.nested else "no region lies within another",
        ),
    ]
    parts = estimate_memory(network, OccupancyInferer(), (count, *size), torch.device("cpu"), _image_dtype(fingerprint))
    native = max(math.prod(shape) for shape in fingerprint.shapes) / math.prod(size)
    volumes = (parts["search"] + parts["result"] / 2) * native  # the bundle keeps results in half precision
    inference = parts["image"] * native + parts["weights"] + max(parts["encoder"], parts["points"] + volumes)
    return choices, batch_size, needed, inference


def _plan_crops(fingerprint: Fingerprint, memory: float) -> tuple[list[Choice], float]:
    """Plans NvNet: the largest crop that fits, of the network as published, else of a narrower one."""
    size, _ = _image_size(fingerprint)
    whole = [min(max(math.ceil(side / 8) * 8, 16), most) for side, most in zip(size, (192, 192, 160), strict=True)]
    for filters in (32, 16, 8):
        crop, least = list(whole), [min(side, 64) for side in whole]
        while True:
            network = NvNet(len(fingerprint.channels), len(fingerprint.regions), init_filters=filters, crop_size=crop)
            needed = estimate_training_memory(network, (len(fingerprint.channels), *crop), 1)
            if needed + BESIDE <= memory or crop == least:
                break
            shrink = max((memory - BESIDE) / needed, 0.3) ** (1 / 3)
            crop = [max(int(side * shrink) // 8 * 8, floor) for side, floor in zip(crop, least, strict=True)]
        if needed + BESIDE <= memory:
            break
    else:
        raise InputError(_too_little(memory))
    covered = 100 * math.prod(crop) / math.prod(whole)
    choices = [
        Choice("crop_size", crop, f"the largest that fits into the memory: {covered:.0f} % of a large image"),
        Choice(
            "init_filters", filters, "channels of the first level, 32 as published, fewer where crops would be small"
        ),
    ]
    return choices, needed


def _plan_scaling(fingerprint: Fingerprint, network: NetworkName) -> tuple[Scaling, list[Choice]]:
    """Plans the scaling of intensities by the kind of the channels."""
    measured = fingerprint.intensities
    if fingerprint.is_ct:
        low, high = (measured[0].low, measured[0].high) if measured else (0.0, 200.0)
        low, high = float(10 * math.floor(low / 10)), float(10 * math.ceil(high / 10))
        width = max(high - low, 100.0)
        window = [max(low - width / 2, -1024.0), min(high + width / 2, 3071.0)]
        told = "0.5th to 99.5th percentile of the labelled voxels" if measured else "a usual window of soft tissue"
        choices = [Choice("hu_window", window, f"{told}, and half as wide again on both sides, for what lies around")]
        if network == "ossnet":
            choices.append(Choice("contrast_window", [low, max(high, low + 10)], f"{told}, also seen stretched"))
        return "window", choices
    least = min((channel.least for channel in measured), default=0.0)
    if least < 0 or (not measured and any(channel.kind == "CT" for channel in fingerprint.channels)):
        return "whole", [Choice("scaling", "whole", f"mean and deviation of all voxels: some are below 0 ({least:g})")]
    zeros = np.mean([channel.zeros for channel in measured]) if measured else 0.0
    told = f"{100 * zeros:.0f} % are 0" if measured else "zeros, where there are any, are no tissue"
    return "nonzero", [
        Choice("scaling", "nonzero", f"mean and deviation of each channel's voxels that are not 0; {told}")
    ]


def _plan_length(fingerprint: Fingerprint, batch_size: int) -> list[Choice]:
    """Plans the split and the epochs."""
    count = fingerprint.count
    validation: float | int = 0.12 if count >= 17 else max(1, round(0.2 * count))
    held_out = max(1, round(validation * count)) if count >= 17 else int(validation)
    steps = max(1, (count - held_out) // batch_size)
    epochs = int(min(max(round(STEPS / steps), 50), 500))
    interval = max(5, epochs // 10)
    return [
        Choice("batch_size", batch_size, f"of {count - held_out} training cases"),
        Choice("validation", validation, f"{held_out} of {count} labelled cases"),
        Choice(
            "epochs", epochs, f"of {steps} steps: about {STEPS:,} in all, not fewer than 50 epochs nor more than 500"
        ),
        Choice("val_interval", interval, "epochs, about ten validations in all"),
        Choice("checkpoint_interval", interval, "epochs, likewise"),
    ]


def _image_size(fingerprint: Fingerprint) -> tuple[list[int], str]:
    contents = np.array(_contents(fingerprint))
    largest, usual = contents.max(axis=0), np.percentile(contents, 95, axis=0)
    outliers = largest > 1.25 * usual
    sides = np.where(outliers, np.ceil(usual), largest).astype(int)
    size = [max(math.ceil(side / unit) * unit, 8) for side in sides for unit in ((8 if side > 32 else 4),)]
    cut = int((contents > sides).any(axis=1).sum())
    what = (
        f"cuts the margins of {cut} of {len(contents)} cases in training" if cut else "holds the content of all cases"
    )
    return size, f"{what}; voxels of {' x '.join(f'{side:.3g}' for side in fingerprint.spacing)} mm"


def _contents(fingerprint: Fingerprint) -> list[list[int]]:
    """Returns the parts of the images that are left of the crop, with its margin of 3 voxels."""
    if not fingerprint.contents:
        return [list(shape) for shape in fingerprint.shapes]
    pairs = zip(fingerprint.contents, fingerprint.shapes, strict=True)
    return [[min(side + 6, whole) for side, whole in zip(*pair, strict=True)] for pair in pairs]


def _channels(cells: Sequence[int]) -> list[int]:
    levels = min(max(math.ceil(math.log2(max(cells) / 12)) + 1, 4), 5)
    return [min(16 << level, 128) for level in range(levels)]


def _points(cells: int) -> int:
    """Plans the points of an image: a thousand take about as long as 16 times as many cells of the finest level."""
    return int(min(max(2 ** round(math.log2(cells / 16)), 1024), 16_384))


def _batch_size(cells: int, count: int) -> int:
    """Plans the images of a step: more where they are small, for two cost a CPU little more than one then."""
    return max(1, min(4 if cells <= SMALL else 2, count // 2))


def _cached(fingerprint: Fingerprint, voxels: int, memory: float) -> tuple[float, str]:
    """Plans which share of the prepared cases stays in the main memory."""
    numbers = len(fingerprint.channels) + len(fingerprint.regions)
    needed = fingerprint.count * voxels * (4 * numbers + 1) / 2**30
    fits = needed <= memory / 2
    told = "all prepared cases stay in main memory" if fits else "prepared cases are too large to be kept"
    return float(fits), f"{told}: {needed:.1f} GiB"


def _lattice(fingerprint: Fingerprint, unit: str, usual: float) -> tuple[Any, str]:
    """Plans the coarse lattice of the search: an object thinner than its step could slip through."""
    found = [size for size in fingerprint.sizes if size.present and size.thinnest]
    if not found:
        return usual, f"{unit}, the usual lattice: no object was measured"
    smallest = min(found, key=lambda size: size.thinnest if unit == "voxel" else size.thinnest_mm)
    thin = smallest.thinnest if unit == "voxel" else smallest.thinnest_mm
    step = float(f"{min(max(thin / 2, usual / 4), usual):.2g}")
    reason = f"{unit}: the thinnest parts of {smallest.name} are {thin:.3g}, and no lattice point may miss them"
    return (max(1, math.ceil(step)) if unit == "voxel" else step), reason


def _spacing_spread(fingerprint: Fingerprint) -> float:
    low, high = np.percentile(fingerprint.spacings, [10, 90], axis=0)
    return float((high / low).max())


def _image_dtype(fingerprint: Fingerprint) -> torch.dtype:
    return torch.float16 if fingerprint.is_ct else torch.float32


def _notes(
    fingerprint: Fingerprint, network: NetworkName, grid: Grid, memory: float, inference: float | None
) -> Iterator[str]:
    for axis, ends in enumerate(("left and right", "front and back", "up and down")):
        if axis not in fingerprint.mirrors:
            yield f"{ends} are not exchanged in training: a label is named after one of them, or the record forbids it"
    for size in fingerprint.sizes:
        if size.present < 0.5:
            yield f"region {size.name} is in {100 * size.present:.0f} % of the cases; expect it to be learnt badly"
    if grid == "crops" and _spacing_spread(fingerprint) > VARIED:
        yield f"spacings differ by more than {VARIED:g}, and {network} sees voxels as they are; ossnet counts in mm"
    if inference is not None and inference + BESIDE > memory:
        yield (
            f"inference of the largest case takes about {inference:.1f} GiB, more than the {memory:g} given: run it "
            "where there is more"
        )


def _too_little(memory: float) -> str:
    return f"memory is {memory:g} GiB; no network of these fits into it: give --memory of a larger device"

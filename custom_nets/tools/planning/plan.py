"""The plan: the keys of a bundle that suit a data set and a memory, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from custom_nets.errors import InputError
from custom_nets.inferers import OccupancyInferer
from custom_nets.inferers.memory import estimate_memory
from custom_nets.networks import NvNet, PyramidOSSNet, PyramidSettings
from custom_nets.tools.planning.fingerprint import Fingerprint
from custom_nets.tools.planning.training_step import StepTimer, estimate_training_memory, time_training_step

NetworkName = Literal["ossnet", "nvnet"]
Grid = Literal["size", "view", "spacing", "crops"]
Scaling = Literal["window", "nonzero", "whole"]

BESIDE = 0.5
"""GiB that Python and PyTorch take beside the tensors."""

CELLS = {"size": 900_000, "spacing": 3_000_000}
"""Cells of the encoder's finest level, within `USUAL_MEMORY`: about as many as those of the shipped bundles."""

USUAL_MEMORY = 8.0
"""GiB; a step of the plans for it takes seconds on a CPU. More memory means more power, and cells grow with it."""

LEAST_CELLS = 16
"""Cells along an axis of a typical image that no downsampling goes below: slices are few, and each tells much."""

FEWEST_CELLS = 16_000
"""Of the finest level; for want of time cells are made no coarser than that."""

LEAST_STEPS = 1_000
"""Of a training of so many minutes: cells are made coarser until there is time for them."""

RESAMPLED_VOXELS = 64_000_000
"""Of a typical image at the bundle's spacing: a CT of the trunk at 1 mm."""

SMALL = 32_000
"""Cells up to which four images make a step, and not two, and the finest level has a second convolution."""

STEPPING = 0.9
"""Of the time of a training; its start, validations and saved states take the rest."""

TINY = 32
"""Voxels; larger images are downsampled at least by 2, for their detail is what the decoder sees."""

STEPS = 10_000
"""Of a whole training, about those of the shipped bundles."""

VARIED = 1.5
"""Spacings whose 90th percentile is so many times their 10th are brought to one; images of such sizes get no common
view, in which what is large and what is small would look alike."""


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
        grid: whether images are brought to one size, seen by the encoder on one grid whatever their size, brought to
            one spacing, or seen as crops.
        scaling: of intensities: a window of Hounsfield units, by the voxels that are not 0, or by all.
        mirrors: axes along which images may be mirrored in training.
        choices: keys with value and reason.
        notes: what a person should know besides.
        training_memory: GiB that a step of training takes, estimated.
        inference_memory: GiB that inference of the largest case takes, estimated; None where no estimate is made.
        step_seconds: that a step of training took on this machine; None where it was not asked for.
    """

    network: NetworkName
    grid: Grid
    scaling: Scaling
    mirrors: tuple[int, ...]
    choices: tuple[Choice, ...]
    notes: tuple[str, ...]
    training_memory: float
    inference_memory: float | None
    step_seconds: float | None = None

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


@dataclass(frozen=True)
class Budget:
    """What a training may take.

    Args:
        memory: GiB of the device.
        minutes: of this machine; None: as long as it takes.
        timer: tells the seconds of a step.
    """

    memory: float = USUAL_MEMORY
    minutes: float | None = None
    timer: StepTimer = time_training_step

    @property
    def power(self) -> float:
        """How much more than usual is to be had."""
        return max(1.0, self.memory / USUAL_MEMORY)

    def steps(self, seconds: float) -> float:
        """The steps of so many seconds that there is time for."""
        return math.inf if self.minutes is None else STEPPING * 60 * self.minutes / seconds

    def allows(self, seconds: float | None) -> bool:
        """Whether there is time for `LEAST_STEPS` of so many seconds."""
        return self.share(seconds) >= 1

    def share(self, seconds: float | None) -> float:
        """The time that there is over that for `LEAST_STEPS` of so many seconds."""
        return math.inf if seconds is None else self.steps(seconds) / LEAST_STEPS


@dataclass(frozen=True)
class HeldOut:
    """The fold of a cross-validation that a bundle holds out.

    Args:
        fold: its number; None: each run is given one.
        folds: of the cross-validation.
        cases: in the fold, the largest where each run is given one.
    """

    fold: int | None
    folds: int
    cases: int


@dataclass(frozen=True)
class _Space:
    """How the network sees images: keys, images a step, and what a step and an inference take."""

    choices: list[Choice]
    batch_size: int
    training_memory: float
    inference_memory: float | None = None
    step_seconds: float | None = None


@dataclass(frozen=True)
class _Grid:
    """The cells of the encoder's finest level, and what of a network follows from them.

    Args:
        downsampling: voxels, or steps, of a cell: along all axes, or each.
        cells: along each axis.
    """

    downsampling: Any
    cells: list[int]

    @property
    def number(self) -> int:
        """All cells."""
        return math.prod(self.cells)

    @property
    def small(self) -> bool:
        """Whether there are so few that more images make a step, and all levels have two convolutions."""
        return self.number <= SMALL

    @property
    def channels(self) -> list[int]:
        """Of each level."""
        levels = min(max(math.ceil(math.log2(max(self.cells) / 12)) + 1, 4), 5)
        return [min(16 << level, 128) for level in range(levels)]

    @property
    def depths(self) -> list[int] | None:
        """Convolutions of each level; None: as is usual."""
        return [2] * len(self.channels) if self.small else None

    @property
    def points(self) -> int:
        """Of an image in training: a thousand take about as long as 16 times as many cells of the finest level."""
        return int(min(max(2 ** round(math.log2(self.number / 16)), 1024), 16_384))

    def view(self, sides: Sequence[float]) -> list[int]:
        """Returns the cells of an image of so many voxels along each axis, of which each level has a whole number."""
        coarsest = 2 ** (len(self.channels) - 1)
        return [math.ceil(side / d / coarsest) * coarsest for side, d in zip(sides, self.downsampling, strict=True)]


@dataclass(frozen=True)
class _Fitted:
    """A grid for whose training memory and time suffice; images a step, its GiB and seconds, and why it is no finer."""

    grid: _Grid
    batch_size: int
    training_memory: float
    step_seconds: float | None
    bound: str

    @property
    def channels_choice(self) -> Choice:
        channels, longest = self.grid.channels, max(self.grid.cells)
        return Choice(
            "channels", channels, f"{len(channels)} levels, until the longest side of {longest} cells is short"
        )

    @property
    def points_choice(self) -> Choice:
        return Choice("num_points", self.grid.points, "of an image in training: about the work of the encoder again")

    def space(self, choices: list[Choice], inference_memory: float) -> _Space:
        """Returns what a plan is made of."""
        return _Space(choices, self.batch_size, self.training_memory, inference_memory, self.step_seconds)


def make_plan(
    fingerprint: Fingerprint,
    network: NetworkName = "ossnet",
    memory: float = USUAL_MEMORY,
    minutes: float | None = None,
    held_out: HeldOut | None = None,
    timer: StepTimer = time_training_step,
) -> Plan:
    """Plans a bundle.

    Args:
        fingerprint: of the data set.
        network: ossnet or nvnet.
        memory: GiB of the device that trains.
        minutes: that a training may take on this machine; None: as long as it takes.
        held_out: the fold that is the validation; None: no cross-validation is planned for.
        timer: tells the seconds of a step, where minutes are given.

    Raises:
        InputError: when nothing fits into the memory, or the minutes are not more than 0.
    """
    if minutes is not None and not minutes > 0:
        msg = f"minutes is {minutes:g}; expected more than 0, such as --minutes 10, or none for a whole training"
        raise InputError(msg)
    budget = Budget(memory, minutes, timer)
    if memory <= BESIDE:
        raise InputError(_too_little(budget))
    scaling, scaling_choices = _plan_scaling(fingerprint, network)
    if network == "nvnet":
        grid: Grid = "crops"
        space = _plan_crops(fingerprint, budget)
    elif fingerprint.is_ct or _spread(fingerprint.spacings) > VARIED:
        grid, space = "spacing", _plan_spacing(fingerprint, budget)
    else:
        grid, space = _plan_size(fingerprint, budget)
    choices = [*space.choices, *scaling_choices, *_plan_length(fingerprint, space, budget, held_out)]
    return Plan(
        network=network,
        grid=grid,
        scaling=scaling,
        mirrors=fingerprint.mirrors,
        choices=tuple(choices),
        notes=tuple(_notes(fingerprint, network, grid, budget, space)),
        training_memory=space.training_memory,
        inference_memory=space.inference_memory,
        step_seconds=space.step_seconds,
    )


def _plan_size(fingerprint: Fingerprint, budget: Budget) -> tuple[Grid, _Space]:
    """Plans an occupancy network on images of one size, whose downsampling may differ by axis; or on one grid."""
    size, reason = _image_size(fingerprint)
    contents = np.array(_contents(fingerprint))
    usual = np.median(contents, axis=0)
    spacing, finest = fingerprint.spacing, min(fingerprint.spacing)
    shape = (len(fingerprint.channels), *size)
    least = 1 if max(size) <= TINY else 2
    # Headers that are belied tell no lengths: all images are taken to show the same.
    alike = fingerprint.claimed is not None or _spread(contents * fingerprint.spacings) <= VARIED

    def grids() -> Iterator[_Grid]:
        for factor in range(least, 33):
            downsampling = [
                min(max(1, round(finest * factor / mm)), 32, max(1, int(side / LEAST_CELLS)))
                for mm, side in zip(spacing, usual, strict=True)
            ]
            yield _Grid(downsampling, [math.ceil(side / d) for side, d in zip(size, downsampling, strict=True)])

    def view_of(grid: _Grid) -> list[int] | None:
        return grid.view(usual) if grid.small and alike else None

    def build(grid: _Grid) -> PyramidOSSNet:
        return PyramidOSSNet(
            len(fingerprint.channels),
            len(fingerprint.regions),
            downsampling=grid.downsampling,
            channels=grid.channels,
            settings=PyramidSettings(depths=grid.depths, grid_size=view_of(grid)),
        )

    def images_a_step(grid: _Grid) -> int:
        return _batch_size(grid.number, fingerprint.count, budget)

    bound = f"{least} is the least planned, for the decoder sees every voxel"
    fitted = _fit_finest(grids(), CELLS["size"], budget, shape, build, images_a_step, bound)
    grid, view = fitted.grid, view_of(fitted.grid)
    step, step_reason = _lattice(fingerprint, "voxel", 2)
    if view is not None:
        sides = " x ".join(f"{side:g}" for side in usual)
        images = [
            Choice(
                "grid_size",
                view,
                f"cells of the encoder's view of each image, of typically {sides} voxels, so that images of different "
                f"sizes make a batch without padding; {fitted.bound}",
            )
        ]
    else:
        cell = " x ".join(f"{side * d:.3g}" for side, d in zip(spacing, grid.downsampling, strict=True))
        images = [
            Choice("image_size", size, reason),
            Choice(
                "downsampling",
                grid.downsampling,
                f"cells of the encoder are {cell} mm, as alike along each axis as they can; {fitted.bound}",
            ),
        ]
    choices = [
        *images,
        fitted.channels_choice,
        Choice(
            "depths",
            grid.depths,
            "two convolutions on every level" if grid.depths else "one on the finest level, two below",
        ),
        fitted.points_choice,
        Choice("cache_rate", *_cached(fingerprint, math.prod(size), budget.memory)),
        Choice("coarse_step", step, step_reason),
        Choice("prior", "none", "no object is lost that the encoder's own coarse segmentation misses"),
        Choice("scan_step", None, "has a use with the prior 'restrict' alone"),
    ]
    largest = (shape[0], *(max(sides) for sides in zip(size, *contents.tolist(), strict=True)))
    inference = estimate_memory(build(grid), OccupancyInferer(), largest, torch.device("cpu"))["peak"]
    return "size" if view is None else "view", fitted.space(choices, inference)


def _plan_spacing(fingerprint: Fingerprint, budget: Budget) -> _Space:
    """Plans an occupancy network on images of one spacing, the same along each axis."""
    lengths = np.multiply(fingerprint.shapes, fingerprint.spacings)
    typical, large = np.median(lengths, axis=0), np.percentile(lengths, 95, axis=0)
    finest = float(np.median(np.min(fingerprint.spacings, axis=1)))
    least = (float(np.prod(typical)) / RESAMPLED_VOXELS) ** (1 / 3)
    spacing = float(f"{max(finest, least):.2g}")
    size = [max(math.ceil(length / spacing), 8) for length in large]
    count, ct = len(fingerprint.channels), fingerprint.is_ct

    def build(grid: _Grid) -> PyramidOSSNet:
        return PyramidOSSNet(
            count,
            len(fingerprint.regions),
            spacing=1.0,  # images without an affine, as those of an estimate, count as 1 mm: here a step
            downsampling=grid.downsampling,
            channels=grid.channels,
            contrast=(0.0, 1.0) if ct else None,
        )

    def images_a_step(grid: _Grid) -> int:  # of large images, that take long to read and resample: a step would wait
        return _batch_size(grid.number, fingerprint.count, Budget())

    grids = (_Grid(d, [math.ceil(length / spacing / d) for length in typical]) for d in range(1, 33))
    fitted = _fit_finest(grids, CELLS["spacing"], budget, (count, *size), build, images_a_step, "the finest")
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
            fitted.grid.downsampling,
            f"cells of the encoder are {spacing * fitted.grid.downsampling:.3g} mm, the same along each axis as steps "
            f"in mm are; {fitted.bound}",
        ),
        fitted.channels_choice,
        fitted.points_choice,
        Choice("coarse_step", step, step_reason),
        Choice(
            "candidate_step",
            step / 2 if fingerprint.nested else None,
            "mm, inside the outermost region" if fingerprint.nested else "no region lies within another",
        ),
    ]
    network, dtype = build(fitted.grid), _image_dtype(fingerprint)
    parts = estimate_memory(network, OccupancyInferer(), (count, *size), torch.device("cpu"), dtype)
    native = max(math.prod(shape) for shape in fingerprint.shapes) / math.prod(size)
    volumes = (parts["search"] + parts["result"] / 2) * native  # the bundle keeps results in half precision
    inference = parts["image"] * native + parts["weights"] + max(parts["encoder"], parts["points"] + volumes)
    return fitted.space(choices, inference)


def _fit_finest(
    grids: Iterable[_Grid],
    most: float,
    budget: Budget,
    shape: tuple[int, ...],
    build: Callable[[_Grid], PyramidOSSNet],
    images_a_step: Callable[[_Grid], int],
    bound: str,
) -> _Fitted:
    """Takes the first grid, of ever coarser ones, for whose training memory and time suffice.

    Args:
        grids: of the encoder's finest level, finest first.
        most: cells, within `USUAL_MEMORY`.
        budget: what a training may take.
        shape: of a large image (C, H, W, D).
        build: makes a grid's network.
        images_a_step: of a grid.
        bound: why no grid is finer than the first one.

    Raises:
        InputError: when nothing fits into the memory.
    """
    most *= budget.power
    ceiling = math.inf  # of cells, by the time that more of them took
    *finer, coarsest = grids
    for grid in (*finer, coarsest):
        if grid.number > ceiling and grid is not coarsest:
            continue
        if grid.number > most:
            bound = f"finer cells would be more than {most:,.0f}, planned for {budget.memory:g} GiB"
            continue
        network, batch_size = build(grid), images_a_step(grid)
        needed = estimate_training_memory(network, shape, batch_size, grid.points)
        if needed + BESIDE > budget.memory:
            bound = f"finer ones do not fit into {budget.memory:g} GiB"
            continue
        seconds = None if budget.minutes is None else budget.timer(network, shape, batch_size, grid.points)
        if budget.allows(seconds) or grid.number <= FEWEST_CELLS or grid is coarsest:
            return _Fitted(grid, batch_size, needed, seconds, bound)
        bound = f"finer ones leave no time for {LEAST_STEPS:,} steps"
        ceiling = max(grid.number * min(1.0, 2 * budget.share(seconds)), FEWEST_CELLS)
    raise InputError(_too_little(budget))


def _plan_crops(fingerprint: Fingerprint, budget: Budget) -> _Space:
    """Plans NvNet: the largest crop that fits, of the network as published, else of a narrower one."""
    memory = budget.memory
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
        raise InputError(_too_little(budget))
    seconds = None if budget.minutes is None else budget.timer(network, (len(fingerprint.channels), *crop), 1, 0)
    covered = 100 * math.prod(crop) / math.prod(whole)
    choices = [
        Choice("crop_size", crop, f"the largest that fits into the memory: {covered:.0f} % of a large image"),
        Choice(
            "init_filters", filters, "channels of the first level, 32 as published, fewer where crops would be small"
        ),
    ]
    return _Space(choices, 1, needed, step_seconds=seconds)


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


def _plan_length(fingerprint: Fingerprint, space: _Space, budget: Budget, fold: HeldOut | None) -> list[Choice]:
    """Plans the split and the epochs."""
    batch_size = space.batch_size
    count = fingerprint.count
    validation: float | int = 0.12 if count >= 17 else max(1, round(0.2 * count))
    held_out = max(1, round(validation * count)) if count >= 17 else int(validation)
    split = [Choice("validation", validation, f"{held_out} of {count} labelled cases")]
    if fold is not None:
        held_out = fold.cases
        split = [Choice("folds", fold.folds, "of a cross-validation: a run holds out one of them, --fold 0 and so on")]
        if fold.fold is not None:
            split += [Choice("fold", fold.fold, f"held out, unless a run names another: {held_out} of {count} cases")]
    steps = max(1, (count - held_out) // batch_size)
    epochs = int(min(max(round(STEPS / steps), 50), 2000))
    told = f"of {steps} steps: about {STEPS:,} in all, not fewer than 50 epochs nor more than 2,000"
    if budget.minutes is not None and space.step_seconds is not None:
        epochs = max(1, min(epochs, int(budget.steps(space.step_seconds) / steps)))
        told = f"of {steps} steps of about {space.step_seconds:.2g} s on this machine: {budget.minutes:g} minutes"
    interval = max(min(5, epochs), epochs // 10)
    return [
        Choice("batch_size", batch_size, f"of {count - held_out} training cases"),
        *split,
        Choice("epochs", epochs, told),
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


def _batch_size(cells: int, count: int, budget: Budget) -> int:
    """Plans the images of a step: more where they are small, for two cost a CPU little more than one then.

    So much memory as cards with large power have makes it twice or four times as many.
    """
    more = min(2 ** int(math.log2(max(budget.power / 2, 1))), 4)
    return max(1, min(more * (4 if cells <= SMALL else 2), count // 2))


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


def _spread(lengths: Any) -> float:
    """Returns how many times the 10th percentile the 90th is, along the axis where it is the most times."""
    low, high = np.percentile(lengths, [10, 90], axis=0)
    return float((high / low).max())


def _image_dtype(fingerprint: Fingerprint) -> torch.dtype:
    return torch.float16 if fingerprint.is_ct else torch.float32


def _notes(fingerprint: Fingerprint, network: NetworkName, grid: Grid, budget: Budget, space: _Space) -> Iterator[str]:
    memory, inference = budget.memory, space.inference_memory
    if fingerprint.claimed is not None:
        claimed, taken = (
            " x ".join(f"{side:.3g}" for side in sides) for sides in (fingerprint.claimed, fingerprint.spacing)
        )
        shape = " x ".join(f"{side:g}" for side in np.median(fingerprint.shapes, axis=0))
        yield (
            f"headers claim voxels of {claimed} mm, which a shape of {shape} belies: {taken} mm is planned for; give "
            "--spacing if it is otherwise. Volumes in ml and distances in mm follow the headers: mend these"
        )
    for axis, ends in enumerate(("left and right", "front and back", "up and down")):
        if axis not in fingerprint.mirrors:
            yield f"{ends} are not exchanged in training: a label is named after one of them, or the record forbids it"
    for size in fingerprint.sizes:
        if size.present < 0.5:
            yield f"region {size.name} is in {100 * size.present:.0f} % of the cases; expect it to be learnt badly"
    if grid == "crops" and _spread(fingerprint.spacings) > VARIED:
        yield f"spacings differ by more than {VARIED:g}, and {network} sees voxels as they are; ossnet counts in mm"
    if budget.minutes is not None and not budget.allows(space.step_seconds):
        yield (
            f"{budget.minutes:g} minutes are too few for {LEAST_STEPS:,} steps of the smallest network planned: expect "
            f"a rough result, or give --minutes {math.ceil(budget.minutes / budget.share(space.step_seconds))}"
        )
    if inference is not None and inference + BESIDE > memory:
        yield (
            f"inference of the largest case takes about {inference:.1f} GiB, more than the {memory:g} given: run it "
            "where there is more"
        )


def _too_little(budget: Budget) -> str:
    return f"memory is {budget.memory:g} GiB; no network of these fits into it: give --memory of a larger device"

"""Scores of each lesion, so that a small lesion weighs as much as a large one; what MONAI lacks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.utils import MetricReduction
from scipy import ndimage

from custom_nets.errors import InputError
from custom_nets.metrics.regions import (
    RegionMetric,
    Spacing,
    checked_masks,
    crop_to_union,
    given_or_meta_spacing,
    hausdorff95,
    spacing_of_each,
)

_CORNERS = np.ones((3, 3, 3), dtype=bool)  # 26-connectivity
_ROUNDING = 1e-3  # mm; an affine in float32 has sides such as 1.0000001, and three of them are still 3 mm


def _dilate(mask: np.ndarray, spacing: Sequence[float], millimetres: float) -> np.ndarray:
    """Returns the mask `[H, W, D]` grown by offsets of at most so many mm an axis, and twice that summed over axes.

    At 1 mm and a whole number of millimetres these are as many dilations by the 18-neighbourhood. They are painted from
    the surface alone, which suffices because the set of offsets has every smaller offset too.
    """
    limit, sides = millimetres + _ROUNDING, np.asarray(spacing)
    reach = [int(limit // side) for side in sides]
    if not any(reach):
        return mask
    steps = np.indices([2 * n + 1 for n in reach]).reshape(3, -1) - np.array(reach)[:, None]
    steps = steps[:, (np.abs(steps) * sides[:, None]).sum(0) <= 2 * limit]
    padded = np.pad(mask, [(n, n) for n in reach])
    surface = np.flatnonzero(padded & ~ndimage.binary_erosion(padded))
    grown = np.zeros(padded.shape, dtype=bool)
    flat = grown.reshape(-1)
    for jump in np.array(grown.strides) @ steps:  # bytes are elements here
        flat[surface + jump] = True
    inside = tuple(slice(n, n + size) for n, size in zip(reach, mask.shape, strict=True))
    return grown[inside] | mask


WORST_DISTANCE = 374.0
"""Millimetres that BraTS charges for a lesion that is missed or invented: the diagonal of its grid, rounded up."""


class _Lesions(NamedTuple):
    """The lesions of one region of one case.

    Attributes:
        dice: of each lesion of the label `[L]`.
        voxels: of each `[L]`.
        invented: voxels of each predicted component that touches none `[F]`.
        numbered: number of the lesion of each voxel of the label, from 1 on `[h, w, d]`.
        parts: number of each voxel's predicted component, from 1 on `[h, w, d]`.
        touching: pairs of a lesion and a component that touches it `[P, 2]`.
        spacing: millimetres between voxels.
    """

    dice: np.ndarray
    voxels: np.ndarray
    invented: np.ndarray
    numbered: np.ndarray
    parts: np.ndarray
    touching: np.ndarray
    spacing: Sequence[float]

    def distances(self, worst: float) -> np.ndarray:
        """Returns the HD95 of each lesion `[L]` in millimetres; `worst` for one that nothing touches."""
        result = np.full(len(self.voxels), worst)
        for index in np.unique(self.touching[:, 0]):
            found = np.isin(self.parts, self.touching[self.touching[:, 0] == index, 1])
            masks = (torch.from_numpy(found), torch.from_numpy(self.numbered == index))
            result[index - 1] = hausdorff95(*masks, self.spacing, worst)
        return result


def _find_lesions(predicted: np.ndarray, true: np.ndarray, spacing: Sequence[float], dilation: float) -> _Lesions:
    """Finds and compares the lesions of one region of one case, both masks `[h, w, d]`."""
    grown, lesions = ndimage.label(_dilate(true, spacing, dilation), structure=_CORNERS)
    parts, found = ndimage.label(predicted, structure=_CORNERS)
    # A lesion's own dilation is its component of `grown`, so touching is sharing a voxel; 0 is background in each.
    met = predicted & (grown > 0)
    pairs = np.unique(grown[met].astype(np.int64) * (found + 1) + parts[met])
    owner, part = np.divmod(pairs, found + 1)
    size_of_part = np.bincount(parts[predicted], minlength=found + 1)
    wanted = np.bincount(grown[true], minlength=lesions + 1)[1:]
    common = np.bincount(grown[true & predicted], minlength=lesions + 1)[1:]
    touching = np.bincount(owner, weights=size_of_part[part], minlength=lesions + 1)[1:]
    invented = np.delete(size_of_part, np.append(part, 0))
    return _Lesions(
        dice=2 * common / (wanted + touching),
        voxels=wanted,
        invented=invented,
        numbered=np.where(true, grown, 0),
        parts=parts,
        touching=np.stack([owner, part], axis=-1),
        spacing=spacing,
    )


def _lesions_of_each(
    y_pred: torch.Tensor, y: torch.Tensor, spacing: Spacing | Sequence[Spacing], dilation: float
) -> Iterator[tuple[tuple[int, int], _Lesions | None]]:
    """Yields the case and region, and its lesions; None where neither prediction nor label has any.

    Args:
        y_pred: binary prediction `[B, R, H, W, D]`.
        y: binary label likewise.
        spacing: see `compute_lesion_dice`.
        dilation: likewise.
    """
    predicted, true = checked_masks(y_pred, y)
    sides = spacing_of_each(spacing, len(y))
    for b, r in np.ndindex(*predicted.shape[:2]):
        if not bool(predicted[b, r].any() | true[b, r].any()):
            yield (b, r), None
            continue
        # Neither lesions nor what they touch change: grown masks that meet outside this box also meet inside it.
        cut = [part.cpu().numpy() for part in crop_to_union(predicted[b, r], true[b, r])]
        yield (b, r), _find_lesions(cut[0], cut[1], sides[b], dilation)


class _Limits(NamedTuple):
    """Which lesions are in question, see `compute_lesion_dice`."""

    max_volume: float | None = None
    min_volume: float = 0.0
    count_false_positives: bool = True

    def select(self, lesions: _Lesions) -> tuple[np.ndarray, int]:
        """Returns which lesions of the label are in question `[L]`, and how many invented ones are."""
        voxel_ml = float(np.prod(lesions.spacing)) / 1000
        volumes, invented = lesions.voxels * voxel_ml, lesions.invented * voxel_ml
        highest = np.inf if self.max_volume is None else self.max_volume
        lowest = 0.0 if self.max_volume is None else self.min_volume  # of false positives
        extra = np.count_nonzero((invented > lowest) & (invented <= highest)) if self.count_false_positives else 0
        return (volumes > self.min_volume) & (volumes <= highest), int(extra)

    def mean(self, lesions: _Lesions | None, scores: np.ndarray, perfect: float, failed: float) -> float:
        """Returns the mean over the lesions in question of their scores `[L]`, see `compute_lesion_dice`.

        Args:
            lesions: of a region.
            scores: of each, without those that nothing touches told apart.
            perfect: score where there is nothing.
            failed: score of an invented lesion.
        """
        if lesions is None:
            return perfect if self.max_volume is None else math.nan
        asked, invented = self.select(lesions)
        kept = scores[asked]
        if self.max_volume is not None and not len(kept):
            return math.nan
        total = len(kept) + invented
        return float(kept.sum() + invented * failed) / total if total else perfect

    def dice(self, lesions: _Lesions | None) -> float:
        """Returns the mean Dice of the lesions in question."""
        return self.mean(lesions, np.empty(0) if lesions is None else lesions.dice, perfect=1.0, failed=0.0)

    def hausdorff95(self, lesions: _Lesions | None, worst: float) -> float:
        """Returns the mean HD95 of the lesions in question."""
        distances = np.empty(0) if lesions is None else lesions.distances(worst)
        return self.mean(lesions, distances, perfect=0.0, failed=worst)

    def counts(self, lesions: _Lesions | None) -> tuple[int, int, int]:
        """Returns how many lesions are in question, how many of them nothing touches, and how many are invented."""
        if lesions is None:
            return 0, 0, 0
        asked, invented = self.select(lesions)
        met = np.isin(np.arange(1, len(asked) + 1), lesions.touching[:, 0])
        return int(asked.sum()), int((asked & ~met).sum()), invented


class LesionScores(NamedTuple):
    """Scores of the lesions of each region.

    Attributes:
        dice: see `compute_lesion_dice` `[B, R]`.
        hausdorff95: see `compute_lesion_hausdorff95` `[B, R]`.
        counts: see `count_lesions` `[B, R, 3]`.
    """

    dice: torch.Tensor
    hausdorff95: torch.Tensor
    counts: torch.Tensor


def score_lesions(
    y_pred: torch.Tensor,
    y: torch.Tensor,
    spacing: Spacing | Sequence[Spacing],
    min_volume: float = 0.0,
    dilation: float = 3.0,
) -> LesionScores:
    """Returns Dice, HD95 and counts of lesions, which are found once for all three.

    Args:
        y_pred: binary prediction `[B, R, H, W, D]`.
        y: binary label `[B, R, H, W, D]`.
        spacing: see `compute_lesion_dice`, as for those below.
        min_volume: millilitres.
        dilation: millimetres.

    Raises:
        InputError: when shapes differ, values are not binary, or `dilation` is negative.
    """
    _check_options(None, min_volume, dilation)
    limits, shape = _Limits(None, min_volume), tuple(y_pred.shape[:2])
    scores = LesionScores(torch.empty(shape), torch.empty(shape), torch.zeros((*shape, 3), dtype=torch.int64))
    for index, lesions in _lesions_of_each(y_pred, y, spacing, dilation):
        scores.dice[index] = limits.dice(lesions)
        scores.hausdorff95[index] = limits.hausdorff95(lesions, WORST_DISTANCE)
        scores.counts[index] = torch.tensor(limits.counts(lesions))
    return scores


def compute_lesion_dice(
    y_pred: torch.Tensor,
    y: torch.Tensor,
    spacing: Spacing | Sequence[Spacing],
    max_volume: float | None = None,
    min_volume: float = 0.0,
    dilation: float = 3.0,
    count_false_positives: bool = True,
) -> torch.Tensor:
    """Returns the mean over lesions of their Dice `[B, R]`, between 0 and 1, or NaN (see below).

    Components of the label (26-connectivity) that meet when dilated are one lesion. Its Dice is that of its undilated
    voxels with all predicted components that touch its dilation, whole, even where another lesion has them too: a
    missed lesion scores 0. A predicted component that touches no lesion of any size is a false positive and counts as
    one more lesion of Dice 0. With no lesion in question the score is 1 without false positives that count, else 0.

    As BraTS 2023 does it, whose code this gives the numbers of at 1 mm: `dilation` 3 and `min_volume` 0.05 for gliomas
    (GLI, SSA, PED), 1 and 0.05 for meningiomas, 1 and 0.002 for metastases. `min_volume` leaves out lesions of the
    label, not false positives. What differs: no lesion is left out by default; dilation is in millimetres and not in
    voxels, so that lesions merge alike on every grid; and `max_volume` is ours. "Lesions under 1 ml apart" is
    `max_volume=1`. With it

    - only lesions of the label above `min_volume` and up to `max_volume`, both of the undilated label, count, and
      false positives of that volume, so that adjoining ranges share out what there is;
    - a region without such a lesion is NaN, false positive or not: which cases are averaged depends on the label
      alone, so that two methods are compared on the same ones. `max_volume=math.inf` asks for large lesions this way.

    Args:
        y_pred: binary prediction `[B, R, H, W, D]`.
        y: binary label `[B, R, H, W, D]`.
        spacing: millimetres between voxels: one number, one an axis, or a sequence of these with one entry a case.
        max_volume: millilitres of the largest lesion in question; None for all.
        min_volume: millilitres; lesions up to this volume are left out, whatever is predicted on them.
        dilation: millimetres along an axis, and twice that summed over the axes (an 18-neighbourhood again and again);
            0 merges nothing and a prediction must overlap a lesion.
        count_false_positives: as above. Without it, scattering specks over the brain costs nothing and can only find
            more, hence the default; turn it off to ask only how well what is there was found.

    Raises:
        InputError: when shapes differ or values are not binary.
        InputError: when `dilation` is negative or the range of volumes is empty.

    Source: lesion-wise metrics of BraTS 2023, github.com/rachitsaluja/BraTS-2023-Metrics.
    """
    _check_options(max_volume, min_volume, dilation)
    limits, result = _Limits(max_volume, min_volume, count_false_positives), torch.empty(y_pred.shape[:2])
    for index, lesions in _lesions_of_each(y_pred, y, spacing, dilation):
        result[index] = limits.dice(lesions)
    return result.to(y_pred.device)


def compute_lesion_hausdorff95(
    y_pred: torch.Tensor,
    y: torch.Tensor,
    spacing: Spacing | Sequence[Spacing],
    min_volume: float = 0.0,
    dilation: float = 3.0,
    worst: float = WORST_DISTANCE,
) -> torch.Tensor:
    """Returns the mean over lesions of their 95th percentile Hausdorff distance `[B, R]`, in millimetres.

    Lesions, what touches them, and which count: as in `compute_lesion_dice`. A lesion's distance is that between its
    undilated voxels and all predicted components that touch its dilation, see `compute_region_hausdorff95`; a missed
    lesion and a false positive count `worst` each. With neither lesion nor false positive it is 0.

    Args:
        y_pred: binary prediction `[B, R, H, W, D]`.
        y: binary label `[B, R, H, W, D]`.
        spacing: see `compute_lesion_dice`.
        min_volume: millilitres; lesions up to this volume are left out, whatever is predicted on them.
        dilation: millimetres, see `compute_lesion_dice`.
        worst: millimetres of a missed or an invented lesion.

    Raises:
        InputError: when shapes differ, values are not binary, or `dilation` is negative.

    Source: lesion-wise metrics of BraTS 2023, github.com/rachitsaluja/BraTS-2023-Metrics.
    """
    _check_options(None, min_volume, dilation)
    limits, result = _Limits(None, min_volume), torch.empty(y_pred.shape[:2])
    for index, lesions in _lesions_of_each(y_pred, y, spacing, dilation):
        result[index] = limits.hausdorff95(lesions, worst)
    return result.to(y_pred.device)


def count_lesions(
    y_pred: torch.Tensor,
    y: torch.Tensor,
    spacing: Spacing | Sequence[Spacing],
    min_volume: float = 0.0,
    dilation: float = 3.0,
) -> torch.Tensor:
    """Counts the lesions of each region, int64 `[B, R, 3]`: those of the label, those missed, those invented.

    A lesion is missed when no predicted component touches its dilation; a component that touches none is invented.

    Args:
        y_pred: binary prediction `[B, R, H, W, D]`.
        y: binary label `[B, R, H, W, D]`.
        spacing: see `compute_lesion_dice`, as for those below.
        min_volume: millilitres.
        dilation: millimetres.

    Raises:
        InputError: when shapes differ, values are not binary, or `dilation` is negative.
    """
    _check_options(None, min_volume, dilation)
    limits, result = _Limits(None, min_volume), torch.zeros((*y_pred.shape[:2], 3), dtype=torch.int64)
    for index, lesions in _lesions_of_each(y_pred, y, spacing, dilation):
        result[index] = torch.tensor(limits.counts(lesions))
    return result


def _check_options(max_volume: float | None, min_volume: float, dilation: float) -> None:
    if not dilation >= 0:
        msg = f"dilation must be 0 mm or more, got {dilation}"
        raise InputError(msg)
    if max_volume is not None and not min_volume < max_volume:
        msg = f"no lesion is larger than min_volume {min_volume} ml and at most max_volume {max_volume} ml"
        raise InputError(msg)


class RegionLesionDice(RegionMetric):
    """Mean Dice of the lesions of each region; NaN where `max_volume` is given and the label has no such lesion.

    NaN drops out of the means of `aggregate`: "mean" averages what regions a case has, then the cases that have any. As
    in any MONAI metric the mean of nothing but NaN is 0. See `compute_lesion_dice` and `RegionMetric`.

    Args:
        reduction: see `RegionMetric`.
        spacing: millimetres between voxels, one number or one an axis; None reads it from the affine of the label, or
            of the prediction where the label has none. A `spacing` given to the call wins.
        max_volume: see `compute_lesion_dice`, as for those below.
        min_volume: millilitres.
        dilation: millimetres.
        count_false_positives: whether these count as lesions of Dice 0.

    Raises:
        InputError: when `dilation` is negative or the range of volumes is empty.
    """

    def __init__(
        self,
        reduction: MetricReduction | str = MetricReduction.MEAN,
        spacing: Spacing | None = None,
        max_volume: float | None = None,
        min_volume: float = 0.0,
        dilation: float = 3.0,
        count_false_positives: bool = True,
    ) -> None:
        super().__init__(reduction)
        _check_options(max_volume, min_volume, dilation)
        self.spacing = spacing
        self.max_volume = max_volume
        self.min_volume = min_volume
        self.dilation = dilation
        self.count_false_positives = count_false_positives

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor, **kwargs: Any) -> torch.Tensor:  # type: ignore[override]
        spacing = given_or_meta_spacing(kwargs.get("spacing", self.spacing), y_pred, y)
        return compute_lesion_dice(
            y_pred, y, spacing, self.max_volume, self.min_volume, self.dilation, self.count_false_positives
        )


class RegionLesionHausdorff95(RegionMetric):
    """Mean HD95 of the lesions of each region, in millimetres; `worst` for each that is missed or invented.

    See `compute_lesion_hausdorff95` and `RegionMetric`.

    Args:
        reduction: see `RegionMetric`.
        spacing: see `RegionLesionDice`.
        min_volume: millilitres, see `compute_lesion_hausdorff95`, as for those below.
        dilation: millimetres.
        worst: millimetres.

    Raises:
        InputError: when `dilation` is negative.
    """

    def __init__(
        self,
        reduction: MetricReduction | str = MetricReduction.MEAN,
        spacing: Spacing | None = None,
        min_volume: float = 0.0,
        dilation: float = 3.0,
        worst: float = WORST_DISTANCE,
    ) -> None:
        super().__init__(reduction)
        _check_options(None, min_volume, dilation)
        self.spacing = spacing
        self.min_volume = min_volume
        self.dilation = dilation
        self.worst = worst

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor, **kwargs: Any) -> torch.Tensor:  # type: ignore[override]
        spacing = given_or_meta_spacing(kwargs.get("spacing", self.spacing), y_pred, y)
        return compute_lesion_hausdorff95(y_pred, y, spacing, self.min_volume, self.dilation, self.worst)

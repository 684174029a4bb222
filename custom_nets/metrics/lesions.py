"""Scores of each lesion, so that a small lesion weighs as much as a large one; what MONAI lacks."""

from __future__ import annotations

from collections.abc import Sequence
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
        grown: number of each voxel's lesion, dilated, from 1 on `[h, w, d]`.
        parts: number of each voxel's predicted component, from 1 on `[h, w, d]`.
        touching: pairs of a lesion and a component that touches it `[P, 2]`.
    """

    dice: np.ndarray
    voxels: np.ndarray
    invented: np.ndarray
    grown: np.ndarray
    parts: np.ndarray
    touching: np.ndarray


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
    return _Lesions(2 * common / (wanted + touching), wanted, invented, grown, parts, np.stack([owner, part], axis=-1))


def _distances(lesions: _Lesions, true: np.ndarray, spacing: Sequence[float], worst: float) -> np.ndarray:
    """Returns the HD95 `[L]` in millimetres of each lesion of a label `[h, w, d]`."""
    numbered = np.where(true, lesions.grown, 0)
    result = np.full(len(lesions.voxels), worst)
    for index in np.unique(lesions.touching[:, 0]):
        found = np.isin(lesions.parts, lesions.touching[lesions.touching[:, 0] == index, 1])
        masks = (torch.from_numpy(found), torch.from_numpy(numbered == index))
        result[index - 1] = hausdorff95(*masks, spacing, worst)
    return result


class _Limits(NamedTuple):
    """Which lesions are in question, see `compute_lesion_dice`."""

    max_volume: float | None = None
    min_volume: float = 0.0
    dilation: float = 3.0
    count_false_positives: bool = True

    def select(self, lesions: _Lesions, voxel_ml: float) -> tuple[np.ndarray, int]:
        """Returns which lesions of the label are in question `[L]`, and how many invented ones are."""
        volumes, invented = lesions.voxels * voxel_ml, lesions.invented * voxel_ml
        highest = np.inf if self.max_volume is None else self.max_volume
        lowest = 0.0 if self.max_volume is None else self.min_volume  # of false positives
        extra = np.count_nonzero((invented > lowest) & (invented <= highest)) if self.count_false_positives else 0
        return (volumes > self.min_volume) & (volumes <= highest), int(extra)


def _mean_over_lesions(
    y_pred: torch.Tensor,
    y: torch.Tensor,
    spacing: Spacing | Sequence[Spacing],
    limits: _Limits,
    distances: bool = False,
    worst: float = WORST_DISTANCE,
) -> torch.Tensor:
    """Returns the mean of a score over the lesions of each region `[B, R]`, see `compute_lesion_dice`.

    Args:
        y_pred: binary prediction `[B, R, H, W, D]`.
        y: binary label likewise.
        spacing: see `compute_lesion_dice`.
        limits: which lesions are in question.
        distances: whether the score is the HD95, and not Dice.
        worst: of a missed or an invented lesion, where the score is the HD95.
    """
    predicted, true = checked_masks(y_pred, y)
    sides = spacing_of_each(spacing, len(y))
    perfect, failed = (0.0, worst) if distances else (1.0, 0.0)
    result = torch.empty(predicted.shape[:2], dtype=torch.float32)
    for b, r in np.ndindex(*result.shape):
        if not bool(predicted[b, r].any() | true[b, r].any()):
            result[b, r] = perfect if limits.max_volume is None else torch.nan
            continue
        # Neither lesions nor what they touch change: grown masks that meet outside this box also meet inside it.
        cut = [part.cpu().numpy() for part in crop_to_union(predicted[b, r], true[b, r])]
        lesions = _find_lesions(cut[0], cut[1], sides[b], limits.dilation)
        scores = _distances(lesions, cut[1], sides[b], worst) if distances else lesions.dice
        asked, invented = limits.select(lesions, float(np.prod(sides[b])) / 1000)
        scores = scores[asked]
        if limits.max_volume is not None and not len(scores):
            result[b, r] = torch.nan
        else:
            total = len(scores) + invented
            result[b, r] = float(scores.sum() + invented * failed) / total if total else perfect
    return result.to(y_pred.device)


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
    return _mean_over_lesions(y_pred, y, spacing, _Limits(max_volume, min_volume, dilation, count_false_positives))


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
    limits = _Limits(None, min_volume, dilation)
    return _mean_over_lesions(y_pred, y, spacing, limits, distances=True, worst=worst)


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
    predicted, true = checked_masks(y_pred, y)
    sides = spacing_of_each(spacing, len(y))
    result = torch.zeros((*predicted.shape[:2], 3), dtype=torch.int64)
    for b, r in np.ndindex(*result.shape[:2]):
        if bool(predicted[b, r].any() | true[b, r].any()):
            cut = [part.cpu().numpy() for part in crop_to_union(predicted[b, r], true[b, r])]
            lesions = _find_lesions(cut[0], cut[1], sides[b], dilation)
            asked, invented = _Limits(None, min_volume).select(lesions, float(np.prod(sides[b])) / 1000)
            met = np.isin(np.arange(1, len(asked) + 1), lesions.touching[:, 0])
            result[b, r] = torch.tensor([asked.sum(), (asked & ~met).sum(), invented])
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

"""Dice, IoU, HD95 and surface Dice of regions: a missed or invented region has the worst value, and never drops out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.data.utils import affine_to_spacing
from monai.metrics import CumulativeIterationMetric, compute_hausdorff_distance, compute_surface_dice
from monai.metrics.utils import do_metric_reduction
from monai.utils import MetricReduction, ensure_tuple_rep

from custom_nets.distributed import gather_items
from custom_nets.errors import InputError

Spacing = float | Sequence[float]


def checked_masks(y_pred: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Checks both tensors and returns them as plain bool tensors `[B, R, H, W, D]`."""
    if y_pred.shape != y.shape or y.ndim != 5:
        msg = (
            f"prediction {tuple(y_pred.shape)} and label {tuple(y.shape)} must both be [B, R, H, W, D], on one "
            "grid: make label maps regions (LabelsToRegionsd), bring predictions back to the label's grid (Invertd)"
        )
        raise InputError(msg)
    masks = []
    for name, tensor in (("prediction", y_pred), ("label", y)):
        values = tensor.as_subclass(torch.Tensor)
        mask = values != 0
        if values.dtype != torch.bool and not torch.equal(mask.to(values.dtype), values):
            msg = f"the {name} must be binary (0 or 1); threshold it first, as with AsDiscreted(threshold=0.5)"
            raise InputError(msg)
        masks.append(mask)
    return masks[0], masks[1]


def _sizes(y_pred: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the voxel counts `[B, R]` of the prediction, the label and their intersection, exact in float64."""
    predicted, true = checked_masks(y_pred, y)
    counts = [part.flatten(2).count_nonzero(dim=2).double() for part in (predicted, true, predicted & true)]
    return counts[0], counts[1], counts[2]


def _ratio(part: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """Returns part / whole, and 1 where the whole is empty: agreement about nothing is agreement."""
    return torch.where(whole > 0, part / whole.clamp(min=1), 1.0).float()


def compute_region_dice(y_pred: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Returns the Dice coefficient `[B, R]`, between 0 and 1; 1 where both regions are empty, 0 where only one is.

    Args:
        y_pred: binary prediction `[B, R, H, W, D]`.
        y: binary label `[B, R, H, W, D]`.

    Raises:
        InputError: when shapes differ or values are not binary.
    """
    predicted, true, common = _sizes(y_pred, y)
    return _ratio(2 * common, predicted + true)


def compute_region_iou(y_pred: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Returns intersection over union `[B, R]`, between 0 and 1; 1 where both regions are empty, 0 where only one is.

    Args:
        y_pred: binary prediction `[B, R, H, W, D]`.
        y: binary label `[B, R, H, W, D]`.

    Raises:
        InputError: when shapes differ or values are not binary.
    """
    predicted, true, common = _sizes(y_pred, y)
    return _ratio(common, predicted + true - common)


def crop_to_union(predicted: torch.Tensor, true: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cuts both masks `[H, W, D]` to the box of their union; outside it no surface lies, so no distance changes."""
    union = predicted | true
    box = []
    for axis in range(union.ndim):
        hits = union.any(dim=[other for other in range(union.ndim) if other != axis]).nonzero()
        box.append(slice(int(hits[0]), int(hits[-1]) + 1))
    return predicted[tuple(box)], true[tuple(box)]


def hausdorff95(predicted: torch.Tensor, true: torch.Tensor, spacing: Sequence[float], worst: float) -> float:
    """Returns the HD95 in millimetres of two masks `[H, W, D]`, see `compute_region_hausdorff95`."""
    found, wanted = bool(predicted.any()), bool(true.any())
    if found != wanted:
        return worst
    if not found or torch.equal(predicted, true):
        return 0.0
    # On the CPU MONAI looks distances up in a tree of surface voxels: fast, and the same number on every device.
    cut = [torch.nn.functional.pad(part, [1] * 6).cpu()[None, None] for part in crop_to_union(predicted, true)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI 1.6 warns of its own call
        distance = compute_hausdorff_distance(cut[0], cut[1], include_background=True, percentile=95, spacing=spacing)
    return float(distance)


def compute_region_hausdorff95(
    y_pred: torch.Tensor, y: torch.Tensor, spacing: Spacing | Sequence[Spacing], worst: float | None = None
) -> torch.Tensor:
    """Returns the 95th percentile Hausdorff distance `[B, R]` in millimetres.

    The larger of the two directed 95th percentiles over surface voxels, as MONAI's `compute_hausdorff_distance`. It is
    0 where both regions are empty, and `worst` where only one is: MONAI has NaN or infinity there, and NaN drops out of
    its mean, so that missing a region would improve the score.

    Args:
        y_pred: binary prediction `[B, R, H, W, D]`.
        y: binary label `[B, R, H, W, D]`.
        spacing: millimetres between voxels: one number, one an axis, or a sequence of these with one entry a case.
        worst: millimetres charged for a missed or invented region; None takes the diagonal of the image's box
            (373.13 mm at 240x240x155 and 1 mm, for which BraTS writes 374).

    Raises:
        InputError: when shapes differ or values are not binary.
    """
    predicted, true = checked_masks(y_pred, y)
    sides = spacing_of_each(spacing, len(y))
    result = torch.empty(predicted.shape[:2], dtype=torch.float32)
    for b, r in np.ndindex(*result.shape):
        diagonal = float(np.linalg.norm(np.asarray(y.shape[2:]) * sides[b]))
        result[b, r] = hausdorff95(predicted[b, r], true[b, r], sides[b], diagonal if worst is None else worst)
    return result.to(y_pred.device)


def compute_region_surface_dice(
    y_pred: torch.Tensor, y: torch.Tensor, spacing: Spacing | Sequence[Spacing], tolerance: float = 1.0
) -> torch.Tensor:
    """Returns the surface Dice (normalised surface distance) `[B, R]`, between 0 and 1.

    The share of both surfaces, by area, that lies within the tolerance of the other one, as MONAI's
    `compute_surface_dice` with `use_subvoxels`. It is 1 where both regions are empty, 0 where only one is.

    Args:
        y_pred: binary prediction `[B, R, H, W, D]`.
        y: binary label `[B, R, H, W, D]`.
        spacing: millimetres between voxels: one number, one an axis, or a sequence of these with one entry a case.
        tolerance: millimetres.

    Raises:
        InputError: when shapes differ, values are not binary, or the tolerance is negative.

    Source: Nikolov et al. 2021, https://arxiv.org/abs/1809.04430.
    """
    if not tolerance >= 0:
        msg = f"tolerance is {tolerance}; expected 0 mm or more"
        raise InputError(msg)
    predicted, true = checked_masks(y_pred, y)
    sides = spacing_of_each(spacing, len(y))
    result = torch.empty(predicted.shape[:2], dtype=torch.float32)
    for b, r in np.ndindex(*result.shape):
        found, wanted = bool(predicted[b, r].any()), bool(true[b, r].any())
        if not (found and wanted):
            result[b, r] = float(found == wanted)
            continue
        cut = [
            torch.nn.functional.pad(part, [1] * 6).cpu()[None, None]
            for part in crop_to_union(predicted[b, r], true[b, r])
        ]
        options: Any = {"include_background": True, "spacing": sides[b], "use_subvoxels": True}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # MONAI 1.6 warns of its own call
            result[b, r] = float(compute_surface_dice(cut[0], cut[1], [tolerance], **options))
    return result.to(y_pred.device)


def spacing_of_each(spacing: Spacing | Sequence[Spacing], cases: int) -> list[tuple[float, ...]]:
    """Returns the three spacings of each case."""
    if isinstance(spacing, Sequence) and isinstance(spacing[0], Sequence):
        each: Sequence[Any] = spacing
    else:
        each = [spacing] * cases
    if len(each) != cases:
        msg = f"{len(each)} spacings for {cases} cases: give one for all, or one a case"
        raise InputError(msg)
    return [tuple(float(side) for side in ensure_tuple_rep(one, 3)) for one in each]


def given_or_meta_spacing(
    spacing: Spacing | Sequence[Spacing] | None, y_pred: torch.Tensor, y: torch.Tensor
) -> Spacing | Sequence[Spacing]:
    """Returns the spacing given; None reads that of each case from the affine of the label, else of the prediction."""
    if spacing is not None:
        return spacing
    for tensor in (y, y_pred):
        affine = getattr(tensor, "affine", None)
        if affine is not None:
            matrices = torch.as_tensor(affine).reshape(-1, 4, 4).expand(len(tensor), 4, 4)
            return [[float(side) for side in affine_to_spacing(matrix)] for matrix in matrices]
    msg = "millimetres are needed: give `spacing`, or MetaTensors with an affine (as LoadImaged makes them)"
    raise InputError(msg)


class RegionMetric(CumulativeIterationMetric):
    """A number for each case and region, `[B, R]`, gathered over cases and processes, of which some may have no case.

    Use it as any MONAI metric, or through `monai.handlers.IgniteMetricHandler(metric_fn=...)`, which also leaves the
    numbers of each case in `engine.state.metric_details`.

    Args:
        reduction: how `aggregate` reduces `[cases, R]`: "mean" (regions, then cases), "mean_batch" (one number a
            region), "none" and the others of `monai.utils.MetricReduction`.
    """

    def __init__(self, reduction: MetricReduction | str = MetricReduction.MEAN) -> None:
        super().__init__()
        self.reduction = reduction

    def aggregate(self, reduction: MetricReduction | str | None = None) -> torch.Tensor:
        """Reduces the numbers of all cases.

        Args:
            reduction: in place of the constructor's.

        Raises:
            InputError: when no case was measured.
        """
        data = self.get_buffer()
        if data is None:
            msg = f"{type(self).__name__} has measured no case: call it before aggregate()"
            raise InputError(msg)
        return do_metric_reduction(data, reduction or self.reduction)[0]

    def _sync(self) -> None:
        # MONAI's own leaves the other processes waiting for one that has measured no case.
        if self._synced:
            return
        rows = gather_items([row.cpu() for row in self._buffers[0]] if self._buffers else [])
        self._synced_tensors = [torch.stack(rows)] if rows else None
        self._synced = True


class RegionDice(RegionMetric):
    """Dice coefficient of each region; 1 where prediction and label are both empty, 0 where only one is.

    See `compute_region_dice` and `RegionMetric`.
    """

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor, **_: Any) -> torch.Tensor:  # type: ignore[override]
        return compute_region_dice(y_pred, y)


class RegionIoU(RegionMetric):
    """Intersection over union of each region; 1 where prediction and label are both empty, 0 where only one is.

    See `compute_region_iou` and `RegionMetric`.
    """

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor, **_: Any) -> torch.Tensor:  # type: ignore[override]
        return compute_region_iou(y_pred, y)


class RegionHausdorff95(RegionMetric):
    """95th percentile Hausdorff distance of each region, in millimetres.

    0 where prediction and label are both empty; the worst value where only one is. See `compute_region_hausdorff95`.

    Args:
        reduction: see `RegionMetric`.
        spacing: millimetres between voxels, one number or one an axis; None reads it from the affine of the label, or
            of the prediction where the label has none. A `spacing` given to the call wins.
        worst: millimetres charged for a missed or invented region; None takes the image's diagonal.
    """

    def __init__(
        self,
        reduction: MetricReduction | str = MetricReduction.MEAN,
        spacing: Spacing | None = None,
        worst: float | None = None,
    ) -> None:
        super().__init__(reduction)
        self.spacing = spacing
        self.worst = worst

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor, **kwargs: Any) -> torch.Tensor:  # type: ignore[override]
        spacing = given_or_meta_spacing(kwargs.get("spacing", self.spacing), y_pred, y)
        return compute_region_hausdorff95(y_pred, y, spacing, self.worst)


class RegionSurfaceDice(RegionMetric):
    """Surface Dice of each region; 1 where prediction and label are both empty, 0 where only one is.

    See `compute_region_surface_dice` and `RegionMetric`.

    Args:
        reduction: see `RegionMetric`.
        spacing: see `RegionHausdorff95`.
        tolerance: millimetres within which two surfaces agree.
    """

    def __init__(
        self,
        reduction: MetricReduction | str = MetricReduction.MEAN,
        spacing: Spacing | None = None,
        tolerance: float = 1.0,
    ) -> None:
        super().__init__(reduction)
        self.spacing = spacing
        self.tolerance = tolerance

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor, **kwargs: Any) -> torch.Tensor:  # type: ignore[override]
        spacing = given_or_meta_spacing(kwargs.get("spacing", self.spacing), y_pred, y)
        return compute_region_surface_dice(y_pred, y, spacing, self.tolerance)

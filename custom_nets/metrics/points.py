"""The published protocol of OSS-Net: Dice and IoU on random points, for comparison with dense scores."""

from __future__ import annotations

from typing import Any

import torch

from custom_nets.errors import InputError
from custom_nets.metrics.regions import RegionMetric

_EPSILON = 1e-10  # as published: prediction and label both empty score 0


class PointOverlap(RegionMetric):
    """Dice or IoU on uniformly drawn voxels, as the published code validates.

    Not for reporting: scores are noisy, the last index of each axis is never drawn, and a case in which prediction and
    label are both empty counts 0. Use `RegionDice` and `RegionIoU`.

    Args:
        measure: `dice` or `iou`.
        num_points: drawn a case; 2^17 as published for BraTS.
        seed: of the points, the same ones for every case, so that two runs agree, and one process with several (the
            published code has none).

    Shapes: prediction and label binary `[B, R, H, W, D]`.
    Source: the validation of the published OSS-Net code.
    """

    def __init__(self, measure: str = "dice", num_points: int = 2**17, seed: int = 0) -> None:
        super().__init__()
        if measure not in ("dice", "iou"):
            msg = f"measure must be 'dice' or 'iou', got '{measure}'"
            raise InputError(msg)
        self.measure = measure
        self.num_points = num_points
        self.seed = seed

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor, **_: Any) -> torch.Tensor:  # type: ignore[override]
        last = torch.tensor(y.shape[2:]) - 1
        fractions = torch.rand(self.num_points, 3, generator=torch.Generator().manual_seed(self.seed))
        i, j, k = (fractions * last).long().to(y.device).T
        return point_overlap(y_pred[:, :, i, j, k].float(), y[:, :, i, j, k].float(), self.measure)


def point_overlap(predicted: torch.Tensor, true: torch.Tensor, measure: str) -> torch.Tensor:
    """Returns the overlap of binary point values `[..., N]`: Dice 2I / (P + T) or IoU I / U, each with 1e-10 below."""
    common = (predicted * true).sum(-1)
    total = predicted.sum(-1) + true.sum(-1)
    return 2 * common / (total + _EPSILON) if measure == "dice" else common / (total - common + _EPSILON)

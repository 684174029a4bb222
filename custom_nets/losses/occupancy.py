"""Losses over point logits."""

from __future__ import annotations

from monai.losses import DiceLoss
from torch import Tensor, nn

from custom_nets.errors import InputError


class PointBCELoss(nn.Module):
    """Binary cross-entropy of point logits.

    Args:
        keep_fraction: average only this share of the largest losses (bootstrapping); 1 keeps all.
        label_smoothing: s softens the targets as published, y (1 - s) + s / R (with one region the zeros alone).

    Shapes: logits and targets `[B, N, R]`, result a scalar.
    Source: the loss of the published OSS-Net code, on logits instead of clamped probabilities (so that a saturated
    point keeps its gradient).
    """

    def __init__(self, keep_fraction: float = 1.0, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 < keep_fraction <= 1:
            msg = f"keep_fraction must be in (0, 1], got {keep_fraction}"
            raise InputError(msg)
        self.keep_fraction = keep_fraction
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Computes the loss."""
        targets = targets.to(logits.dtype)
        if self.label_smoothing:
            targets = targets * (1 - self.label_smoothing) + self.label_smoothing / targets.shape[-1]
        losses = nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        if self.keep_fraction < 1:
            losses = losses.flatten().topk(int(losses.numel() * self.keep_fraction)).values
        return losses.mean()


class OccupancyLoss(nn.Module):
    """Loss of an occupancy network: points, plus the auxiliary segmentation of the encoder.

    Args:
        auxiliary_weight: factor of the auxiliary loss (0.1 in the paper, section 4.1).
        point_loss: loss on the point logits; any loss that takes logits, such as MONAI's `FocalLoss`.
        dice_weight: factor of a soft Dice loss over the points of the batch, region by region; 0 for none.

    Shapes: `forward((point logits [B, K, R], auxiliary logits [B, R, h, w, d] or None[, indices [B, K] of the points
    that were answered]), (point labels [B, N, R], auxiliary targets [B, R, h', w', d'] or None))`; K is N where no
    indices are given. Targets on a finer grid are max-pooled to the auxiliary logits' grid.
    """

    def __init__(
        self, auxiliary_weight: float = 0.1, point_loss: nn.Module | None = None, dice_weight: float = 0.0
    ) -> None:
        super().__init__()
        self.auxiliary_weight = auxiliary_weight
        self.point_loss = PointBCELoss() if point_loss is None else point_loss
        self.dice_weight = dice_weight
        # Over the batch: a region that one case lacks would otherwise weigh as much as one that fills it.
        self.dice_loss = DiceLoss(sigmoid=True, batch=True)

    def forward(self, outputs: tuple[Tensor | None, ...], targets: tuple[Tensor, Tensor | None]) -> Tensor:
        """Computes the loss."""
        logits, auxiliary_logits, *chosen = outputs
        labels, auxiliary_targets = targets
        assert logits is not None
        if chosen and chosen[0] is not None:
            labels = labels.gather(1, chosen[0][..., None].expand(-1, -1, labels.shape[-1]))
        # Losses are numerically at home in float32, also under autocast.
        loss = self.point_loss(logits.float(), labels.float())
        if self.dice_weight:
            loss = loss + self.dice_weight * self.dice_loss(logits.float().mT, labels.float().mT)
        if auxiliary_logits is None or auxiliary_targets is None or self.auxiliary_weight == 0:
            return loss
        pooled = nn.functional.adaptive_max_pool3d(auxiliary_targets.float(), auxiliary_logits.shape[2:])
        auxiliary = nn.functional.binary_cross_entropy_with_logits(auxiliary_logits.float(), pooled)
        return loss + self.auxiliary_weight * auxiliary

"""Batches prepared for MONAI's trainers."""

from __future__ import annotations

from typing import Any

import torch
from monai.engines import PrepareBatch


class PreparePointsBatch(PrepareBatch):
    """Moves the image once, and its points, to the device; patches are gathered there.

    For `SupervisedTrainer(prepare_batch=...)`: the network is called as `network(image, points)`, the loss as
    `loss(outputs, (point_labels, auxiliary_target))`. Where some points are left to the network (`uncertain_share` of
    `SamplePointsd`), it is called as `network(image, points, candidates=…, uncertain=…)`.

    Args:
        num_points: points to be answered; needed where some of them are left to the network.
        uncertain_share: share of points left to the network, as in `SamplePointsd`.

    Batch keys: `image` `[B, C, H, W, D]` (any floating dtype), `points` `[B, N, 3]`, `point_labels` `[B, N, R]`, and
    where there is one `auxiliary_target` `[B, R, h, w, d]`. Where `image_size` `[B, 3]` tells that images are padded to
    the largest of the batch, the network is given it as `sizes`.
    """

    def __init__(self, num_points: int = 0, uncertain_share: float = 0.0) -> None:
        self.num_points = num_points
        self.num_uncertain = int(num_points * uncertain_share)

    def __call__(
        self,
        batchdata: dict[str, torch.Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor | None], tuple, dict]:
        """Returns (image, (point labels, auxiliary target), (points,), keywords of the network's forward)."""

        def move(key: str) -> torch.Tensor:
            # MONAI's metadata makes every later operation slower; only of the image a network may read the spacing.
            tensor = batchdata[key] if key == "image" else torch.Tensor.as_subclass(batchdata[key], torch.Tensor)
            return tensor.to(device=device, non_blocking=non_blocking, **kwargs)

        auxiliary = move("auxiliary_target") if "auxiliary_target" in batchdata else None
        points = move("points")
        choice: dict[str, Any] = {}
        if self.num_uncertain:
            candidates = points.shape[1] - (self.num_points - self.num_uncertain)
            choice = {"candidates": candidates, "uncertain": self.num_uncertain}
        if "image_size" in batchdata:
            whole = list(batchdata["image"].shape[2:])
            if any(size != whole for size in batchdata["image_size"].tolist()):
                choice["sizes"] = move("image_size")
        return move("image"), (move("point_labels"), auxiliary), (points,), choice


class PrepareReconstructionBatch(PrepareBatch):
    """Makes the image a target beside its regions, for a network that reconstructs what it sees.

    For `SupervisedTrainer(prepare_batch=...)`: the network is called as `network(image)`, the loss as
    `loss(output, (regions, image))`.

    Batch keys: `image` `[B, C, H, W, D]`, `label` `[B, R, H, W, D]`.
    """

    def __call__(
        self,
        batchdata: dict[str, torch.Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Returns (image, (regions, image)), without MONAI's metadata, which makes every operation slower."""
        image, regions = (
            torch.Tensor.as_subclass(batchdata[key], torch.Tensor).to(
                device=device, non_blocking=non_blocking, **kwargs
            )
            for key in ("image", "label")
        )
        return image, (regions, image)

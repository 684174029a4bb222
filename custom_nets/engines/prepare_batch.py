"""What MONAI's trainers take from a batch of points."""

from __future__ import annotations

from typing import Any

import torch
from monai.engines import PrepareBatch


class PreparePointsBatch(PrepareBatch):
    """Moves the image once, and its points, to the device; patches are gathered there.

    For `SupervisedTrainer(prepare_batch=...)`: the network is called as `network(image, points)`, the loss as
    `loss(outputs, (point_labels, auxiliary_target))`.

    Batch keys: `image` `[B, C, H, W, D]` (any floating dtype), `points` `[B, N, 3]`, `point_labels` `[B, N, R]`, and
    where there is one `auxiliary_target` `[B, R, h, w, d]`.
    """

    def __call__(
        self,
        batchdata: dict[str, torch.Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor | None], tuple, dict]:
        """Returns (image, (point labels, auxiliary target), (points,), {})."""

        def move(key: str) -> torch.Tensor:
            # MONAI's metadata makes every later operation slower and is not needed in a training step.
            plain = torch.Tensor.as_subclass(batchdata[key], torch.Tensor)
            return plain.to(device=device, non_blocking=non_blocking, **kwargs)

        auxiliary = move("auxiliary_target") if "auxiliary_target" in batchdata else None
        return move("image"), (move("point_labels"), auxiliary), (move("points"),), {}

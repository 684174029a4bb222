"""An occupancy network that knows the truth, so that a search alone is measured."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from custom_nets.networks import OccupancyNetwork


class Latent(NamedTuple):
    """What the network without weights hands from `encode` to `decode`."""

    segmentation: Tensor


class TruthNetwork(OccupancyNetwork):
    """Looks its logits up.

    Args:
        logits: of each voxel `[R, H, W, D]`.
        prior: its auxiliary logits `[1, R, h, w, d]`.
    """

    def __init__(self, logits: Tensor, prior: Tensor) -> None:
        self.logits = logits
        self.prior = prior

    def encode(self, image: Tensor) -> Latent:
        return Latent(self.prior)

    def decode(self, latent: Latent, image: Tensor, points: Tensor) -> Tensor:
        rows, columns, slices = points[0].unbind(dim=-1)
        return self.logits[:, rows, columns, slices].T[None]

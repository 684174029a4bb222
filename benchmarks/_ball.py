"""Volumes whose true shape is known: real networks with all their cost, whose answers are those of a ball.

Untrained weights answer with noise, whose surfaces are everywhere. So encoder, gathering and decoder do all of their
work here, and then their logits, scaled down to nothing, are added to the signed distance to a ball.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from custom_nets.networks import OccupancyNetwork, OSSNet, OSSNetSettings, PyramidOSSNet
from custom_nets.networks.base import Decoder, OccupancyNetworkBase
from custom_nets.networks.ossnet.network import PUBLISHED

_NEGLIGIBLE = 1e-6
_SURE = 6.0


class Volume(NamedTuple):
    """A volume with a ball in its middle: size, modalities, radius in voxels."""

    shape: tuple[int, int, int]
    channels: int
    radius: float


VOLUMES = {
    "64": Volume((64, 64, 64), 4, 13.25),
    "128": Volume((128, 128, 128), 4, 26.5),
    "128, one channel": Volume((128, 128, 128), 1, 26.5),
    "brats": Volume((256, 256, 160), 4, 29.0),
    "brats, large": Volume((256, 256, 160), 4, 45.0),
    "256": Volume((256, 256, 256), 4, 53.0),
    "512": Volume((512, 512, 512), 1, 106.0),
}
"""By name: cubes whose ball fills the same share, and the padded BraTS volume with 102,000 and 382,000 voxels of it."""

NETWORKS = ("onet", "a", "b", "c", "d", "pyramid")


def build_network(name: str, volume: Volume) -> OccupancyNetworkBase:
    """An untrained network, sized as published for the kind of volume: MRI with four channels, CT with one."""
    torch.manual_seed(0)
    if name == "pyramid":
        return PyramidOSSNet(volume.channels, 1).eval()
    keys = {**PUBLISHED["lits" if volume.channels == 1 else "brats"]}
    settings = OSSNetSettings(coordinates="voxel", latent_size=keys.pop("latent_size"))
    keys["grid_size"] = [side // 2 for side in volume.shape]
    return OSSNet(name, num_regions=1, settings=settings, **keys).eval()


class BallNetwork(nn.Module, OccupancyNetwork):
    """An occupancy network with the cost of another one, and a ball for an answer.

    Args:
        network: whose work is done; None: none at all, so that a search is measured alone.
        volume: what is in it.
        cells: grid of the auxiliary segmentation of a network that is not there; None: it gives none.
        shells: radius of each region, as shares of the ball's.
    """

    def __init__(
        self,
        network: OccupancyNetworkBase | None,
        volume: Volume,
        cells: tuple[int, ...] | None = None,
        shells: tuple[float, ...] = (1.0,),
    ) -> None:
        super().__init__()
        self.network = network
        self.volume = volume
        self.cells = cells
        self.register_buffer("centre", torch.tensor([(side - 1) / 2 for side in volume.shape]))
        self.register_buffer("radii", torch.tensor(shells) * volume.radius)
        self.centre: Tensor
        self.radii: Tensor

    def truth(self) -> Tensor:
        """The ball `[H, W, D]`, Boolean."""
        axes = [torch.arange(side, device=self.centre.device) for side in self.volume.shape]
        squares = [(axis - middle).square() for axis, middle in zip(axes, self.centre, strict=True)]
        distance = squares[0][:, None, None] + squares[1][:, None] + squares[2]
        return distance < self.volume.radius**2

    def prior(self, cells: tuple[int, ...]) -> Tensor:
        """The auxiliary logits of a head that is right `[1, 1, h, w, d]`: cells that the ball touches."""
        return nn.functional.adaptive_max_pool3d(self.truth()[None, None].float(), cells) * (2 * _SURE) - _SURE

    def encode(self, image: Tensor) -> Any:
        if self.network is None:
            return OnlyPrior(None if self.cells is None else self.prior(self.cells))
        latent = self.network.encode(image)
        if latent.segmentation is None:
            return latent
        return latent._replace(segmentation=self.prior(tuple(latent.segmentation.shape[2:])))

    def decode(self, latent: Any, image: Tensor, points: Tensor) -> Tensor:
        if self.network is None:
            return self.logits(points)
        return self.network.decode(latent, image, points) * _NEGLIGIBLE + self.logits(points)

    def prepare_decoder(self, latent: Any, image: Tensor, dtype: torch.dtype | None = None) -> Decoder:
        if self.network is None:
            return self.logits
        decode = self.network.prepare_decoder(latent, image, dtype)
        return lambda points: decode(points) * _NEGLIGIBLE + self.logits(points)

    def logits(self, points: Tensor) -> Tensor:
        """Signed distances in voxels `[B, N, R]`, positive inside."""
        return self.radii - (points - self.centre).square().sum(dim=-1, keepdim=True).sqrt()

    def preferred_chunk(self, device: torch.device) -> int | None:
        return None if self.network is None else self.network.preferred_chunk(device)

    @property
    def bytes_per_point(self) -> int:
        return 0 if self.network is None else self.network.bytes_per_point


class OnlyPrior(NamedTuple):
    """What the network without a network hands from `encode` to `decode`."""

    segmentation: Tensor | None

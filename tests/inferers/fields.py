"""Occupancy networks whose logits are known, and inferers for them."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import nn

from custom_nets.inferers import OccupancyInferer, SearchSettings
from custom_nets.networks import OccupancyNetwork

SEARCH = {field.name for field in dataclasses.fields(SearchSettings)}


def build_inferer(**options: object) -> OccupancyInferer:
    """An inferer; options of the search go into its settings."""
    search = SearchSettings(**{name: value for name, value in options.items() if name in SEARCH})  # type: ignore[arg-type]
    return OccupancyInferer(search, **{n: v for n, v in options.items() if n not in SEARCH})  # type: ignore[arg-type]


class FieldLatent(NamedTuple):
    field: torch.Tensor
    segmentation: torch.Tensor | None


class FieldNetwork(nn.Module, OccupancyNetwork):
    """An occupancy network that looks its logits up in a stored field `[B, R, H, W, D]` and keeps a record."""

    def __init__(self, field: torch.Tensor, segmentation: torch.Tensor | None = None) -> None:
        super().__init__()
        self.field = field.float()
        self.segmentation = segmentation
        self.calls: list[torch.Tensor] = []

    def encode(self, image: torch.Tensor) -> FieldLatent:
        assert image.shape[2:] == self.field.shape[2:]
        return FieldLatent(self.field, self.segmentation)

    def decode(self, latent: FieldLatent, image: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        assert type(image) is torch.Tensor
        assert points.dtype == torch.int64
        assert len(latent.field) == len(image) == len(points) == 1
        self.calls.append(points[0])
        i, j, k = points[0].unbind(dim=-1)
        return latent.field[0][:, i, j, k].T[None]

    def queried(self) -> torch.Tensor:
        """How often each voxel was queried `[H, W, D]` (batches of one)."""
        count = torch.zeros(self.field.shape[2:], dtype=torch.int64)
        points = torch.cat(self.calls)
        return count.index_put_(
            tuple(points.unbind(dim=-1)), torch.ones(len(points), dtype=torch.int64), accumulate=True
        )


def image_for(field: torch.Tensor, channels: int = 1) -> torch.Tensor:
    return torch.zeros(len(field), channels, *field.shape[2:])


def signed_ball(shape: tuple[int, int, int], centre: tuple[float, ...], radius: float) -> torch.Tensor:
    """Logits `[1, 1, H, W, D]`: distance to the sphere in voxels, positive inside."""
    grid = torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in shape], indexing="ij")
    distance = sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)).sqrt()
    return (radius - distance)[None, None]


def random_field(
    seed: int, shape: tuple[int, ...], smoothness: float, batch: int = 1, regions: int = 1
) -> torch.Tensor:
    """Smooth random logits `[batch, regions, *shape]` with several objects."""
    noise = np.random.default_rng(seed).standard_normal((batch, regions, *shape))
    smooth = ndimage.gaussian_filter(noise, (0, 0, *[smoothness] * 3))
    return torch.from_numpy(3 * smooth / max(smooth.std(), 1e-3) - 1.5).float()


def run(field: torch.Tensor, segmentation: torch.Tensor | None = None, **options: object) -> tuple:
    """The result for a field, the network that holds it, and the inferer."""
    network, inferer = FieldNetwork(field, segmentation), build_inferer(**options)
    return inferer(image_for(field), network), network, inferer

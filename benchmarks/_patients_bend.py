"""Geometric augmentation in point space: the encoder's coarse view is bent, and points are asked at bent positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from custom_nets.networks import PyramidOSSNet
from custom_nets.networks.base import plain_tensor
from custom_nets.networks.pyramid.network import PyramidLatent
from custom_nets.networks.pyramid.sampling import sample_features, sample_neighbourhoods


@dataclass(frozen=True)
class Bend:
    """Where a place `u` of the bent view lies in the image: `matrix (u + displacement(u)) + shift`, all in -1..1.

    Attributes:
        matrix: `[3, 3]`.
        shift: `[3]`.
        field: displacements at a coarse lattice `[1, 3, a, b, c]`.
    """

    matrix: Tensor
    shift: Tensor
    field: Tensor

    @classmethod
    def draw(cls, size: Tensor, angle: float, scale: float, shift: float, elastic: float) -> Bend:
        """Draws one for an image of `size` voxels: turned about the third axis, scaled, moved and bent."""
        uniform = torch.rand(8) * 2 - 1
        turn = torch.eye(3)
        cosine, sine = (angle * uniform[0]).cos(), (angle * uniform[0]).sin()
        turn[:2, :2] = torch.stack([torch.stack([cosine, -sine]), torch.stack([sine, cosine])])
        # In the plane one factor and some of each axis; slices are few, and stay more as they are.
        factor = torch.exp(scale * (0.8 * uniform[1] + torch.stack([*(0.2 * uniform[2:4]), -0.3 * uniform[1]])))
        matrix = turn * factor * size[None] / size[:, None]
        field = elastic * torch.randn(1, 3, 5, 5, 3) if elastic else torch.zeros(1, 3, 1, 1, 1)
        return cls(matrix, shift * uniform[4:7], field)

    def displacement(self, places: Tensor) -> Tensor:
        """Displacements `[..., 3]` at places `[..., 3]` of the bent view."""
        grid = places.flip(-1).reshape(1, -1, 1, 1, 3)
        sampled = nn.functional.grid_sample(self.field, grid, padding_mode="border", align_corners=True)
        return sampled[0, :, :, 0, 0].T.reshape(places.shape)

    def of_view(self, places: Tensor) -> Tensor:
        """Where places of the view lie in the image."""
        return (places + self.displacement(places)) @ self.matrix.T + self.shift

    def of_image(self, places: Tensor) -> Tensor:
        """Where places of the image lie in the view."""
        straight = (places - self.shift) @ torch.linalg.inv(self.matrix).T
        bent = straight
        for _ in range(4):  # displacements are small and smooth: the inverse is a fixed point
            bent = straight - self.displacement(bent)
        return bent


class BentPyramidOSSNet(PyramidOSSNet):
    """Pyramid OSS-Net that bends the encoder's view in training; the raw neighbourhood stays as it is."""

    def __init__(
        self,
        *arguments: Any,
        angle: float = 0.4,
        scale: float = 0.25,
        shift: float = 0.1,
        elastic: float = 0.03,
        **keys: Any,
    ) -> None:
        super().__init__(*arguments, **keys)
        self.strength = (angle, scale, shift, elastic)
        self._bends: list[Bend] | None = None

    def _reduce(self, image: Tensor, spacing: Tensor) -> Tensor:
        volume = super()._reduce(image, spacing)
        self._bends = None
        if not self.training:
            return volume
        size = torch.tensor(image.shape[2:], dtype=torch.float32)
        self._bends = [Bend.draw(size, *self.strength) for _ in range(len(image))]
        axes = [(torch.arange(n) * 2 + 1) / n - 1 for n in volume.shape[2:]]
        places = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
        grids = torch.stack([bend.of_view(places).flip(-1) for bend in self._bends]).to(volume)
        return nn.functional.grid_sample(volume, grids, padding_mode="border", align_corners=False)

    def decode(self, latent: PyramidLatent, image: Tensor, points: Tensor) -> Tensor:
        if self._bends is None:
            return super().decode(latent, image, points)
        image = plain_tensor(image)
        size = torch.tensor(image.shape[2:], dtype=torch.float32)
        places = (points.cpu().float() * 2 + 1) / size - 1
        places = torch.stack([bend.of_image(p) for bend, p in zip(self._bends, places, strict=True)]).to(image.device)
        parts = sample_features(latent.features, (places + 1) / 2)
        samples = sample_neighbourhoods(image, points, self.neighbourhood, self._step(latent))
        parts += [self._views(samples, dim=2).flatten(2), places]
        return self.decoder(torch.cat([part.to(parts[0].dtype) for part in parts], dim=-1))

"""Pyramid OSS-Net with what is tried on real patients before it may become part of the package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from custom_nets.networks import PyramidOSSNet
from custom_nets.networks.geometry import plain_tensor, resize_to_grid
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


class Attention(nn.Module):
    """Lets every cell of a level see every other: one transformer layer over `[B, F, h, w, d]`."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(features, 4, 2 * features, 0.0, batch_first=True, norm_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(2).mT).mT.reshape(x.shape)


class TrialPyramidOSSNet(PyramidOSSNet):
    """Pyramid OSS-Net with options that are on trial.

    Args:
        arguments: of `PyramidOSSNet`.
        bend: strength of the geometric augmentation in point space: the encoder's coarse view is bent in training, and
            points are asked at bent positions, while the raw neighbourhood stays as it is. Angle (radians), scale and
            shift (shares), deviation of the elastic field (share of half the image); None: not bent.
        supervised: a head on each level, in `level_logits` after `encode`.
        corrected: the decoder reads the logits of this level's head, and answers with their correction; None: it does
            not.
        attention: over the coarsest level.
        grid: of the encoder's view of every image, whatever its size; None: as `downsampling` makes it.
        located: whether the decoder reads the position.
        keys: of `PyramidOSSNet`.
    """

    def __init__(
        self,
        *arguments: Any,
        bend: tuple[float, float, float, float] | None = None,
        supervised: bool = False,
        corrected: int | None = None,
        attention: bool = False,
        grid: Sequence[int] | None = None,
        located: bool = True,
        channels: Sequence[int] = (16, 32, 64, 128),
        **keys: Any,
    ) -> None:
        super().__init__(*arguments, channels=channels, **keys)
        self.bend, self.corrected, self.located, self.grid = bend, corrected, located, grid
        self.sizes: list[Sequence[int]] | None = None
        """Voxels of each image of a padded batch; None: all of them."""
        self._bends: list[Bend] | None = None
        self.level_logits: list[Tensor] = []
        num_regions = self.decoder[-1].out_features
        self.heads = nn.ModuleList(nn.Conv3d(n, num_regions, 1) for n in channels) if supervised else None
        if attention:
            self.encoder.levels.append(nn.Sequential(self.encoder.levels.pop(-1), Attention(channels[-1])))
        first = self.decoder[0]
        inputs = first.in_features + (num_regions if corrected is not None else 0) - (0 if located else 3)
        self.decoder[0] = nn.Linear(inputs, first.out_features)

    def _sizes(self, image: Tensor) -> list[Sequence[int]]:
        return [image.shape[2:]] * len(image) if self.sizes is None else self.sizes

    def _downsample(self, image: Tensor, spacing: Tensor, voxel: float | None) -> Tensor:
        volume = self._view(image, spacing, voxel)
        self._bends = None
        if self.bend is None or not self.training:
            return volume
        # Without a grid of its own the view spans the padded image.
        sizes = [image.shape[2:]] * len(image) if self.grid is None else self._sizes(image)
        self._bends = [Bend.draw(torch.tensor(size, dtype=torch.float32), *self.bend) for size in sizes]
        return bent(volume, [bend.of_view(centres(volume.shape[2:])) for bend in self._bends])

    def _view(self, image: Tensor, spacing: Tensor, voxel: float | None) -> Tensor:
        if self.grid is None:
            return super()._downsample(image, spacing, voxel)
        items = zip(plain_tensor(image), self._sizes(image), strict=True)
        return torch.cat([resize_to_grid(item[None, :, :h, :w, :d], self.grid) for item, (h, w, d) in items])

    def _encode(self, image: Tensor, spacing: Tensor, voxel: float | None = None) -> PyramidLatent:
        latent = super()._encode(image, spacing, voxel)
        if self.heads is None:
            return latent
        self.level_logits = [head(f.movedim(-1, 1)) for head, f in zip(self.heads, latent.features, strict=True)]
        if self.corrected is None:
            return latent
        logits = self.level_logits[self.corrected].movedim(1, -1).contiguous()
        return latent._replace(features=(*latent.features, logits))

    def level_targets(self, labels: Tensor) -> list[Tensor]:
        """Shares of each region `[B, R, h, w, d]` in the cells of each level, bent as the view is."""
        finest = self.level_logits[0].shape[2:]
        sizes = [labels.shape[2:]] * len(labels) if self.grid is None else self._sizes(labels)
        pool = nn.functional.adaptive_avg_pool3d
        shares = torch.stack(
            [pool(item[:, :h, :w, :d].float(), finest) for item, (h, w, d) in zip(labels, sizes, strict=True)]
        )
        if self._bends is not None:
            shares = bent(shares, [bend.of_view(centres(finest)) for bend in self._bends])
        return [pool(shares, logits.shape[2:]) for logits in self.level_logits]

    def decode(self, latent: PyramidLatent, image: Tensor, points: Tensor) -> Tensor:
        image = plain_tensor(image)
        own = torch.tensor([list(size) for size in self._sizes(image)], dtype=torch.float32)[:, None]  # [B, 1, 3]
        spanned = own if self.grid is not None else torch.tensor(image.shape[2:], dtype=torch.float32).expand_as(own)
        places = (points.cpu().float() * 2 + 1) / spanned - 1
        if self._bends is not None:
            places = torch.stack([bend.of_image(p) for bend, p in zip(self._bends, places, strict=True)])
        parts = sample_features(latent.features, ((places + 1) / 2).to(image.device))
        samples = sample_neighbourhoods(image, points, self.neighbourhood, self._step(latent))
        # The decoder counts from the first to the last voxel's centre of the image itself.
        position = ((places + 1) * spanned - 1) / (own - 1).clamp(min=1) - 1
        inputs = [
            *parts,
            self._views(samples, dim=2).flatten(2),
            *([position.to(image.device)] if self.located else []),
        ]
        logits = self.decoder(torch.cat([part.to(parts[0].dtype) for part in inputs], dim=-1))
        return logits if self.corrected is None else logits + parts[-1]


def centres(size: Sequence[int]) -> Tensor:
    """Centres `[h, w, d, 3]` of the cells of a grid, in -1..1 from face to face."""
    axes = [(torch.arange(n) * 2 + 1) / n - 1 for n in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def bent(volume: Tensor, places: Sequence[Tensor]) -> Tensor:
    """Samples each `[C, h, w, d]` of a batch at places `[h, w, d, 3]` in -1..1; beyond the border its nearest cell."""
    grids = torch.stack([each.flip(-1) for each in places]).to(volume)
    return nn.functional.grid_sample(volume, grids, padding_mode="border", align_corners=False)

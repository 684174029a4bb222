"""The feature pyramid of Pyramid OSS-Net."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from monai.networks.blocks import Convolution
from torch import Tensor, nn


class PyramidEncoder(nn.Module):
    """Feature pyramid over a reduced volume.

    Bottom-up, each level has half the grid of the one before (the mean of 2x2x2 cells, so that the cells of every level
    cover the same box) and its own 3x3x3 convolutions. The decoder reads all levels, so that none needs to hold what
    another knows; optionally, top-down, every level but the finest takes in the coarser one and is convolved again.

    Args:
        in_channels: modalities C.
        channels: features of each level, finest first.
        depths: convolutions of each level.
        num_regions: regions R of the auxiliary logits.
        auxiliary_level: the level they are read from.
        norm: normalisation by MONAI's names.
        act: activation by MONAI's names.
        top_down: with the top-down part.

    Source of the top-down part: feature pyramid networks (Lin et al., CVPR 2017, section 3).
    """

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int],
        depths: Sequence[int],
        num_regions: int,
        auxiliary_level: int,
        norm: str | tuple,
        act: str | tuple,
        top_down: bool,
    ) -> None:
        super().__init__()
        self.num_levels = len(channels)
        self.auxiliary_level = auxiliary_level

        def convolution(inputs: int, outputs: int) -> nn.Module:
            return Convolution(3, inputs, outputs, norm=norm, act=act, bias=False)

        self.levels = nn.ModuleList()
        for inputs, outputs, depth in zip((in_channels, *channels[:-1]), channels, depths, strict=True):
            first = convolution(inputs, outputs)
            self.levels.append(nn.Sequential(first, *(convolution(outputs, outputs) for _ in range(depth - 1))))
        self.pool = nn.AvgPool3d(2)
        # The finest level costs most, and has least to gain from what is coarse.
        middle = list(pairwise(channels[1:])) if top_down else []
        self.projections = nn.ModuleList(nn.Conv3d(coarse, fine, 1) for fine, coarse in middle)
        self.fusions = nn.ModuleList(convolution(fine, fine) for fine, _ in middle)
        self.segmentation = nn.Conv3d(channels[auxiliary_level], num_regions, 1)

    def forward(self, volume: Tensor) -> tuple[list[Tensor], Tensor]:
        """Encodes a volume `[B, C, h, w, d]` whose sides are multiples of the coarsest level's cells.

        Returns:
            Features `[B, F, h / 2^i, w / 2^i, d / 2^i]` of each level i, and auxiliary logits on one of these grids.
        """
        # Channels last: convolutions are as fast, and a point's features lie side by side without a copy.
        x = volume.contiguous(memory_format=torch.channels_last_3d)
        features: list[Tensor] = []
        for level in self.levels:
            features.append(level(self.pool(features[-1]) if features else x))
        for i in range(len(self.fusions) - 1, -1, -1):
            coarse = self.projections[i](features[i + 2])
            up = nn.functional.interpolate(coarse, features[i + 1].shape[2:], mode="trilinear", align_corners=False)
            features[i + 1] = self.fusions[i](features[i + 1] + up)
        return features, self.segmentation(features[self.auxiliary_level])

"""The feature pyramid of Pyramid OSS-Net: residual blocks bottom-up, sums top-down."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from monai.networks.blocks import UnetResBlock
from torch import Tensor, nn


class PyramidEncoder(nn.Module):
    """Feature pyramid over a reduced volume.

    Bottom-up, a residual block a level, each at half the grid of the one before (mean of 2x2x2 cells, so that cells of
    every level cover the same box). Top-down, each level adds the coarser one, projected to its channels and upsampled.

    Args:
        in_channels: modalities C.
        channels: features of each level, finest first.
        num_regions: regions R of the auxiliary logits.
        auxiliary_level: the level they are read from.
        norm: normalisation by MONAI's names.
        act: activation by MONAI's names.

    Source of the top-down part: feature pyramid networks (Lin et al., CVPR 2017, section 3), with concatenation of the
    levels left to the decoder.
    """

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int],
        num_regions: int,
        auxiliary_level: int,
        norm: str | tuple,
        act: str | tuple,
    ) -> None:
        super().__init__()
        self.num_levels = len(channels)
        self.auxiliary_level = auxiliary_level
        inputs = (in_channels, *channels[:-1])
        self.blocks = nn.ModuleList(
            UnetResBlock(3, i, o, kernel_size=3, stride=1, norm_name=norm, act_name=act)
            for i, o in zip(inputs, channels, strict=True)
        )
        self.pool = nn.AvgPool3d(2)
        self.projections = nn.ModuleList(nn.Conv3d(coarse, fine, 1) for fine, coarse in pairwise(channels))
        self.segmentation = nn.Conv3d(channels[auxiliary_level], num_regions, 1)

    def forward(self, volume: Tensor) -> tuple[list[Tensor], Tensor]:
        """Encodes a volume `[B, C, h, w, d]` whose sides are multiples of the coarsest level's cells.

        Returns:
            Features `[B, F, h / 2^i, w / 2^i, d / 2^i]` of each level i, and auxiliary logits on one of these grids.
        """
        features: list[Tensor] = []
        for block in self.blocks:
            features.append(block(self.pool(features[-1]) if features else volume))
        for i in reversed(range(len(features) - 1)):
            coarse = self.projections[i](features[i + 1])
            up = nn.functional.interpolate(coarse, features[i].shape[2:], mode="trilinear", align_corners=False)
            features[i] = features[i] + up
        return features, self.segmentation(features[self.auxiliary_level])

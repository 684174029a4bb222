"""The convolutional encoder of OSS-Net: a coarse volume to a few latent vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from monai.networks.layers.utils import get_norm_layer
from torch import Tensor, nn

from custom_nets.errors import InputError
from custom_nets.networks.export_ops import is_traced
from custom_nets.networks.pade.activation import PadeActivation


class Latent(NamedTuple):
    """Output of the encoder.

    Attributes:
        vectors: `[B, 1 or 6, L]`: the decoder's input (row 0) and, where there are six, a row for each of its blocks.
        segmentation: auxiliary logits `[B, R, h, w, d]` on the encoder's coarsest grid, or None.
    """

    vectors: Tensor
    segmentation: Tensor | None


class EncoderBlock(nn.Module):
    """Residual block that halves the grid (odd sizes round down).

    Shapes: `[B, Cin, H, W, D]` to `[B, Cout, H//2, W//2, D//2]`.
    """

    def __init__(self, in_channels: int, out_channels: int, norm: str | tuple) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm1 = get_norm_layer(norm, spatial_dims=3, channels=out_channels)
        self.act1 = PadeActivation()
        self.pool = nn.AvgPool3d(2)
        self.conv2 = nn.Conv3d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = get_norm_layer(norm, spatial_dims=3, channels=out_channels)
        self.skip = nn.Conv3d(in_channels, out_channels, 1, bias=False)
        self.act2 = PadeActivation()

    def forward(self, x: Tensor) -> Tensor:
        """Applies the block."""
        y = self.norm2(self.conv2(self.pool(self.act1(self.norm1(self.conv1(x))))))
        # Pooling and a 1x1x1 convolution commute: pooled first, the convolution has an eighth of the voxels.
        return self.act2(y + self.skip(self.pool(x)))


class ConvNormPade(nn.Module):
    """5x5x5 convolution, normalisation, Padé: `[B, Cin, H, W, D]` to `[B, Cout, H, W, D]`."""

    def __init__(self, in_channels: int, out_channels: int, norm: str | tuple, bias: bool) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, 5, padding=2, bias=bias)
        self.norm = get_norm_layer(norm, spatial_dims=3, channels=out_channels)
        self.act = PadeActivation()

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layers."""
        return self.act(self.norm(self.conv(x)))


class OSSNetEncoder(nn.Module):
    """Encoder of OSS-Net.

    Args:
        in_channels: modalities.
        channels: features of each block; every block halves the grid.
        latent_size: grid of the latent before it is flattened; the last grid is pooled to it (the published networks
            have volumes whose last grid is just this).
        num_regions: channels of the auxiliary segmentation.
        skips: with skip connections and auxiliary segmentation (variants C and D), or plain (O-Net, A, B).
        num_latents: latent vectors of an encoder with skips.
        norm: normalisation by MONAI's names; `batch` as published.

    Source: OSS-Net (Reich et al., BMVC 2021), section 3.2.
    """

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int],
        latent_size: Sequence[int],
        num_regions: int,
        skips: bool,
        num_latents: int = 6,
        norm: str | tuple = "batch",
    ) -> None:
        super().__init__()
        self.min_size = 2 ** len(channels)
        inputs = (in_channels, *channels[:-1])
        self.blocks = nn.ModuleList(EncoderBlock(i, o, norm) for i, o in zip(inputs, channels, strict=True))
        if skips:
            self.pool: nn.Module = nn.AdaptiveMaxPool3d(tuple(latent_size))
            self.skips = nn.ModuleList(ConvNormPade(c, c // 2, norm, bias=False) for c in channels)
            self.to_latent = ConvNormPade(sum(c // 2 for c in channels), num_latents, norm, bias=True)
            self.segmentation: nn.Module | None = nn.Conv3d(channels[-1], num_regions, 5, padding=2, bias=False)
        else:
            self.pool = nn.AdaptiveAvgPool3d(tuple(latent_size))
            self.skips = nn.ModuleList()
            self.to_latent = ConvNormPade(channels[-1], 1, norm, bias=True)
            self.segmentation = None

    def forward(self, volume: Tensor) -> Latent:
        """Encodes a volume `[B, C, h, w, d]` that is already at the encoder's grid.

        Raises:
            InputError: when a side is shorter than the blocks can halve.
        """
        if not is_traced() and min(volume.shape[2:]) < self.min_size:
            msg = f"the encoder is given {tuple(volume.shape[2:])} voxels; expected at least {self.min_size} a side"
            raise InputError(msg)
        x, outputs = volume, []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        if self.segmentation is None:
            return Latent(self.to_latent(self.pool(x)).flatten(2), None)
        skips = [skip(self.pool(output)) for skip, output in zip(self.skips, outputs, strict=True)]
        return Latent(self.to_latent(torch.cat(skips, dim=1)).flatten(2), self.segmentation(x))

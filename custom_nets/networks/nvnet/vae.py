"""The variational branch of NvNet: reconstructs the image from the encoder's last features."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any

import torch
from monai.networks.blocks.segresnet_block import ResBlock, get_conv_layer
from monai.networks.layers.utils import get_act_layer, get_norm_layer
from torch import Tensor, nn

from custom_nets.networks.checkpointing import run_layer

LOG_VARIANCE_BOUND = 10.0
"""Largest magnitude of a log-variance: unbounded, its exponential in the KL term overflows, training ends in NaN."""

CHANNELS = 16
"""Channels at the bottleneck (table 1 of the paper, rows VD and VU)."""


class VariationalBranch(nn.Module):
    """Variational autoencoder on top of the encoder, with a decoder of its own and no skip from the encoder.

    Args:
        in_channels: channels F of the encoder's last features.
        out_channels: modalities C to be reconstructed.
        grid: sides `(h, w, d)` of the encoder's last features.
        doublings: number of times that the grid is doubled up to the image.
        latent_size: numbers L drawn.
        norm: normalisation by MONAI's names.
        act: activation by MONAI's names.
        checkpointing: see `run_layer`; for the levels of the decoder.

    Shapes: features `[B, F, h, w, d]`; result reconstruction `[B, C, H, W, D]`, mean and log-variance `[B, L]`.
    Source: Myronenko 2018, table 1 (VD to VEnd).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        grid: Sequence[int],
        doublings: int,
        latent_size: int,
        norm: Any,
        act: Any,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.grid = tuple(grid)
        self.checkpointing = checkpointing
        coarse = [(side + 1) // 2 for side in self.grid]
        self.down = nn.Sequential(
            get_norm_layer(norm, spatial_dims=3, channels=in_channels),
            get_act_layer(act),
            get_conv_layer(3, in_channels, CHANNELS, stride=2),
        )
        self.to_distribution = nn.Linear(CHANNELS * prod(coarse), 2 * latent_size)
        self.from_sample = nn.Linear(latent_size, CHANNELS * prod(coarse))
        self.up = nn.Sequential(
            nn.Unflatten(1, (CHANNELS, *coarse)),
            get_act_layer(act),
            get_conv_layer(3, CHANNELS, in_channels, kernel_size=1),
            nn.Upsample(self.grid, mode="trilinear"),
        )
        widths = [in_channels >> level for level in range(doublings + 1)]
        self.up_layers = nn.ModuleList(
            nn.Sequential(
                get_conv_layer(3, wide, narrow, kernel_size=1),
                nn.Upsample(scale_factor=2, mode="trilinear"),
                ResBlock(3, narrow, norm=norm, act=act),
            )
            for wide, narrow in pairwise(widths)
        )
        self.end = get_conv_layer(3, widths[-1], out_channels, kernel_size=1, bias=True)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encodes the features to a distribution, draws from it, and decodes the image."""
        # float32 also under autocast: the exponential of a variance leaves the range of 16 bits.
        mean, raw = self.to_distribution(self.down(features).flatten(1)).float().chunk(2, dim=1)
        log_variance = LOG_VARIANCE_BOUND * torch.tanh(raw / LOG_VARIANCE_BOUND)
        sample = mean + torch.exp(log_variance / 2) * torch.randn_like(mean)
        image = self.up(self.from_sample(sample))
        for layer in self.up_layers:
            image = run_layer(layer, image, self.checkpointing)
        return self.end(image), mean, log_variance

"""OSS-Net's inference in its original form, for comparison: what this project started from.

All patches of a stage are gathered at once, the patch mapping is made of convolutions, latent vectors and conditional
norms are computed for every chunk of 16,384 points, the Padé activation is a sum of powers, and a stage dilates the
whole volume by a cubic maximum filter. Source: Reich et al., BMVC 2021, and the facts of its published code.
"""

from __future__ import annotations

from typing import Any

import torch
from _ball import BallNetwork
from torch import Tensor, nn

from custom_nets.networks import OSSNet, PadeActivation
from custom_nets.networks.ossnet.patches import PatchConvolution, _gather_masked

CHUNK = 2**14


class OriginalDecoder(nn.Module):
    """The decoder of an `OSSNet`, its weights in layers as published."""

    def __init__(self, network: OSSNet) -> None:
        super().__init__()
        self.decoder = network.decoder
        mapping = network.decoder.patch_mapping
        self.mapping = None if mapping is None else nn.ModuleList([_as_layer(mapping.conv1), _as_layer(mapping.conv2)])

    def forward(self, vectors: Tensor, coordinates: Tensor, patches: Tensor | None) -> Tensor:
        """Logits `[N, R]` of coordinates `[N, 3]` and patches `[N, Cp, 7, 7, 7]`."""
        parts = [coordinates.float()]
        if self.mapping is not None and patches is not None:
            mapping = self.decoder.patch_mapping
            hidden = naive_pade(self.mapping[0](patches), mapping.act1)
            parts.append(naive_pade(self.mapping[1](hidden), mapping.act2).flatten(1))
        count = len(coordinates)
        x = torch.cat([*parts, vectors[:1].repeat(count, 1)], dim=1)
        for i, block in enumerate(self.decoder.blocks):
            row = vectors[i + 1 if len(vectors) > 1 else 0]
            y = naive_pade(_conditional_norm(block.linear1(x), block.norm1, row), block.act1)
            y = _conditional_norm(block.linear2(y), block.norm2, row)
            x = naive_pade(y + block.skip(x), block.act2)
        return self.decoder.to_logits(x)


def naive_pade(x: Tensor, act: PadeActivation) -> Tensor:
    """The activation by its formula."""
    n, d, a = act.numerator, act.denominator.abs(), x.abs()
    top = n[0] + n[1] * x + n[2] * x**2 + n[3] * x**3 + n[4] * x**4 + n[5] * x**5
    return top / (1 + d[0] * a + d[1] * a**2 + d[2] * a**3 + d[3] * a**4)


def _conditional_norm(x: Tensor, norm: Any, row: Tensor) -> Tensor:
    gamma, beta = norm.gamma(row).expand(len(x), -1), norm.beta(row).expand(len(x), -1)
    return gamma * ((x - norm.running_mean) / (norm.running_var + norm.eps).sqrt()) + beta


def _as_layer(convolution: PatchConvolution) -> nn.Conv3d:
    outputs, inputs = convolution.weight.shape[:2]
    layer = nn.Conv3d(inputs, outputs, 7, padding=3)
    layer.load_state_dict({name: value for name, value in convolution.state_dict().items() if name != "taps"})
    return layer


def dilate(grid: Tensor, side: int) -> Tensor:
    """Cubic maximum filter of a volume `[B, C, H, W, D]`."""
    return nn.functional.max_pool3d(grid, side, stride=1, padding=side // 2)


class Original:
    """The published search over a volume with a ball in it.

    Args:
        ball: whose network is an `OSSNet` C or D.
    """

    def __init__(self, ball: BallNetwork) -> None:
        self.ball = ball
        self.network: OSSNet = ball.network  # type: ignore[assignment]
        self.decoder = OriginalDecoder(self.network).to(ball.centre.device).eval()
        self.queries: list[int] = []

    @torch.no_grad()
    def __call__(self, image: Tensor) -> Tensor:
        """The label map `[H, W, D]` of an image `[1, C, H, W, D]` (sides divisible by 4), float32."""
        latent = self.ball.encode(image)
        shape = image.shape[2:]
        grid = torch.zeros(shape, device=image.device)
        self.queries = []
        size = [side // 4 for side in shape]
        prior = nn.functional.interpolate(latent.segmentation.sigmoid(), size, mode="trilinear", align_corners=True)
        self._query((prior[0, 0] > 0.5).nonzero() * 4, grid, latent.vectors[0], image)
        for stride in (2, 1):
            dilated = dilate(grid[None, None], 3**stride)[0, 0]
            wanted = (dilated > 0) & (grid == 0)
            self._query(wanted[::stride, ::stride, ::stride].nonzero() * stride, grid, latent.vectors[0], image)
        return grid

    def _query(self, points: Tensor, grid: Tensor, vectors: Tensor, image: Tensor) -> None:
        self.queries.append(len(points))
        patches = self.gather(image, points)
        chunks = zip(points.split(CHUNK), patches.split(CHUNK), strict=True)
        probabilities = torch.cat([self.decode(vectors, *chunk) for chunk in chunks])
        found = points[probabilities[:, 0] > 0.5]
        grid[tuple(found.unbind(dim=1))] = 1

    def decode(self, vectors: Tensor, points: Tensor, patches: Tensor) -> Tensor:
        """Probabilities `[N, 1]` of one chunk."""
        return (self.decoder(vectors, points, patches) * 1e-6 + self.ball.logits(points)).sigmoid()

    def gather(self, image: Tensor, points: Tensor) -> Tensor:
        """Patches of all points at once `[N, Cp, 7, 7, 7]`."""
        local = _gather_masked(image[0], points, -3, 1, 7)
        if not self.network.variant.mid_range_patches:
            return local
        large = _gather_masked(image[0], points, -7, 1, 14)
        return torch.cat([local, nn.functional.max_pool3d(large, 2)], dim=1)

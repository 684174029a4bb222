"""The point decoder of OSS-Net: residual blocks of conditional batch normalisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from custom_nets.errors import InputError
from custom_nets.networks.ossnet.encoder import Latent
from custom_nets.networks.ossnet.patches import PATCH_FEATURES, PatchMapping
from custom_nets.networks.pade.activation import PadeActivation


class ConditionalBatchNorm(nn.Module):
    """Batch normalisation whose scale and shift are predicted from a latent vector.

    One mean and one variance are shared by all points **and** all features, as in the published network (a
    `BatchNorm1d` of one channel), so that the layer is one multiply-add a feature: it is folded to `scale * x + shift`.

    Shapes: features `[B, N, F]` and latent vector `[B, L]` to `[B, N, F]`.
    Source: conditional batch norm of occupancy networks (Mescheder et al., CVPR 2019, suppl. 1.1).
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, features: int, latent_length: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum = momentum
        self.eps = eps
        self.gamma = nn.Linear(latent_length, features)
        self.beta = nn.Linear(latent_length, features)
        nn.init.zeros_(self.gamma.weight)
        nn.init.ones_(self.gamma.bias)
        nn.init.zeros_(self.beta.weight)
        nn.init.zeros_(self.beta.bias)
        self.register_buffer("running_mean", torch.zeros(1))
        self.register_buffer("running_var", torch.ones(1))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.int64))

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        """Normalises the features."""
        mean, var = self._statistics(x) if self.training else (self.running_mean, self.running_var)
        scale, shift = (part.unsqueeze(1).to(x.dtype) for part in self.scale_and_shift(latent, mean, var))
        return torch.addcmul(shift, x, scale)

    def scale_and_shift(self, latent: Tensor, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the layer for latent vectors `[..., L]` and statistics `[1]` as factors and summands `[..., F]`."""
        scale = self.gamma(latent) * torch.rsqrt(var + self.eps)
        return scale, self.beta(latent) - mean * scale

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        var, mean = torch.var_mean(x.float(), correction=0)
        with torch.no_grad():
            unbiased = var * (x.numel() / max(x.numel() - 1, 1))
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
            self.num_batches_tracked.add_(1)
        return mean, var


class DecoderBlock(nn.Module):
    """Residual block of two linear layers, conditioned on a latent vector: `[B, N, Fin]` to `[B, N, Fout]`."""

    def __init__(self, in_features: int, out_features: int, latent_length: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(in_features, out_features)
        self.norm1 = ConditionalBatchNorm(out_features, latent_length)
        self.act1 = PadeActivation()
        self.linear2 = nn.Linear(out_features, out_features)
        self.norm2 = ConditionalBatchNorm(out_features, latent_length)
        self.skip = nn.Linear(in_features, out_features) if in_features != out_features else nn.Identity()
        self.act2 = PadeActivation()

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        """Applies the block."""
        y = self.norm2(self.linear2(self.act1(self.norm1(self.linear1(x), latent))), latent)
        return self.act2(y + self.skip(x))


class OSSNetDecoder(nn.Module):
    """Decoder of OSS-Net: is each point inside each region?

    Args:
        num_regions: logits a point.
        latent_length: L, the length of one latent vector.
        patch_channels: channels of the points' patches, 0 for none (O-Net).
        hidden_features: width of the blocks.
        num_blocks: residual blocks.

    Source: OSS-Net (Reich et al., BMVC 2021), section 3.3.
    """

    def __init__(
        self,
        num_regions: int,
        latent_length: int,
        patch_channels: int,
        hidden_features: int = 512,
        num_blocks: int = 5,
    ) -> None:
        super().__init__()
        self.patch_mapping = PatchMapping(patch_channels) if patch_channels else None
        in_features = 3 + latent_length + (PATCH_FEATURES if patch_channels else 0)
        inputs = [in_features] + [hidden_features] * (num_blocks - 1)
        self.blocks = nn.ModuleList(DecoderBlock(i, hidden_features, latent_length) for i in inputs)
        self.to_logits = nn.Linear(hidden_features, num_regions, bias=False)

    def forward(self, latent: Latent, coordinates: Tensor, patches: Tensor | None) -> Tensor:
        """Decodes points.

        Args:
            latent: the encoder's output.
            coordinates: `[B, N, 3]` in the units that the network was trained with.
            patches: `[B, N, Cp, 7, 7, 7]`, or None for a decoder without patches.

        Returns:
            Logits `[B, N, R]`.
        """
        vectors = latent.vectors
        features = [coordinates.to(vectors.dtype)]
        if self.patch_mapping is not None:
            if patches is None:
                msg = "patches: this decoder reads them; expected [B, N, Cp, 7, 7, 7]"
                raise InputError(msg)
            features.append(self.patch_mapping(patches.to(vectors.dtype)))
        features.append(vectors[:, :1].expand(-1, coordinates.shape[1], -1))
        x = torch.cat(features, dim=-1)
        for number, block in enumerate(self.blocks):
            x = block(x, vector_of_block(vectors, number))
        return self.to_logits(x)


def vector_of_block(vectors: Tensor, number: int) -> Tensor:
    """The latent vector `[B, L]` of a decoder's block, of those of a volume `[B, 1 or 6, L]`."""
    # A skip encoder has one vector for each block, a plain encoder the same for all.
    return vectors[:, number + 1 if vectors.shape[1] > 1 else 0]

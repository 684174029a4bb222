"""OSS-Net's decoder for one volume: everything that is constant there folded into a few matrices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from custom_nets.networks.ossnet.decoder import ConditionalBatchNorm, DecoderBlock, OSSNetDecoder, vector_of_block
from custom_nets.networks.ossnet.patches import PATCH_FEATURES, PatchConvolution
from custom_nets.networks.pade.activation import PadeActivation
from custom_nets.networks.pade.fused import biased_pade_


class _Layer(NamedTuple):
    """A linear layer and its activation: Padé of `x @ weight + bias`.

    Attributes:
        weight: `[Fin, Fout]`, in the decoder's precision.
        bias: `[Fout]`, float32.
        numerator: of the activation, float32 `[6]`.
        denominator: float32 `[4]`.
        compiled: see `PadeActivation`.
    """

    weight: Tensor
    bias: Tensor
    numerator: Tensor
    denominator: Tensor
    compiled: bool

    def activate_(self, products: Tensor) -> Tensor:
        """Bias and activation of `x @ weight` `[N, Fout]`, in place."""
        return biased_pade_(products, self.bias, self.numerator, self.denominator, self.compiled)


class _Entry(NamedTuple):
    """Weights by which points enter the first block's first layer and its skip connection.

    Attributes:
        coordinates: `[3, F]`, float32.
        patch_features: `[343, F]` in the decoder's precision, or None.
    """

    coordinates: Tensor
    patch_features: Tensor | None

    def __call__(self, coordinates: Tensor, patch_features: Tensor | None, dtype: torch.dtype) -> Tensor:
        entered = (coordinates @ self.coordinates).to(dtype)
        if self.patch_features is None or patch_features is None:
            return entered
        return entered.addmm_(patch_features, self.patch_features)


class FoldedDecoder:
    """The decoder of one volume, in evaluation: logits equal to `OSSNetDecoder`'s up to rounding, at less cost.

    The latent vector is the same for all points of a volume. So its share of the first layer and of the skip beside it
    is a bias, and each conditional batch norm is one scale and one shift a feature, which go into the linear layer
    before it. The patch mapping's two convolutions are matrices. What is left are matrix products, each followed by one
    pass of bias and activation in place.

    Positions enter in float32 whatever the precision: neighbouring voxels of a large volume have the same bfloat16.

    Args:
        decoder: whose weights are folded; later changes of them have no effect.
        vectors: the volume's latent vectors `[1, 1 or 6, L]`.
        dtype: precision of the matrix products; activations are computed in float32 inside.
    """

    @torch.no_grad()
    def __init__(self, decoder: OSSNetDecoder, vectors: Tensor, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype
        with torch.autocast(vectors.device.type, enabled=False):
            self._fold(decoder, vectors.float())

    @torch.no_grad()
    def __call__(self, coordinates: Tensor, patches: Tensor | None) -> Tensor:
        """Decodes points.

        Args:
            coordinates: `[N, 3]` in the units that the network was trained with.
            patches: `[N, Cp * 343]`, or None for a decoder without patches.

        Returns:
            Logits `[N, R]`, float32.
        """
        with torch.autocast(coordinates.device.type, enabled=False):
            features = None if patches is None else self._map_patches(patches)
            hidden, x = (entry(coordinates.float(), features, self.dtype) for entry in self.entries)
            for i, (first, second) in enumerate(self.blocks):
                hidden = first.activate_(x @ first.weight if i else hidden)
                x = second.activate_(x.addmm_(hidden, second.weight))
            return (x @ self.to_logits).float()

    def _map_patches(self, patches: Tensor) -> Tensor:
        features = patches.to(self.dtype)
        for layer in self.patch_mapping:
            features = layer.activate_(features @ layer.weight)
        return features

    def _fold(self, decoder: OSSNetDecoder, vectors: Tensor) -> None:
        mapping = decoder.patch_mapping
        self.patch_mapping = [] if mapping is None else [self._convolution(*layer) for layer in mapping.layers()]
        self.blocks: list[tuple[_Layer, _Layer]] = []
        for i, block in enumerate(cast("Iterable[DecoderBlock]", decoder.blocks)):
            vector = vector_of_block(vectors, i)[0]
            weight, bias = _normalised(block.linear1, block.norm1, vector)
            second_weight, second_bias = _normalised(block.linear2, block.norm2, vector)
            if i == 0:
                entry, bias = self._entry(weight, bias, vectors[0, 0])
                skip_weight, skip_bias = _skip(block, weight.shape[1])
                skip, second_bias = self._entry(skip_weight, second_bias + skip_bias, vectors[0, 0])
                self.entries = (entry, skip)
            self.blocks.append(
                (self._layer(weight, bias, block.act1), self._layer(second_weight, second_bias, block.act2))
            )
        self.to_logits = decoder.to_logits.weight.T.to(self.dtype)

    def _entry(self, weight: Tensor, bias: Tensor, vector: Tensor) -> tuple[_Entry, Tensor]:
        """Splits a layer `[Fout, 3 (+ 343) + L]` by its inputs; the share of the latent vector joins the bias."""
        coordinates, features, latent = weight.split([3, weight.shape[1] - 3 - len(vector), len(vector)], dim=1)
        entering = features.T.to(self.dtype) if features.shape[1] else None
        return _Entry(coordinates.T.float(), entering), bias + latent.float() @ vector

    def _layer(self, weight: Tensor, bias: Tensor, act: PadeActivation) -> _Layer:
        coefficients = act.numerator.float(), act.denominator.float()
        return _Layer(weight.T.to(self.dtype), bias.float(), *coefficients, act.compiled)

    def _convolution(self, convolution: PatchConvolution, act: PadeActivation) -> _Layer:
        bias = convolution.bias.repeat_interleave(PATCH_FEATURES).clone()  # no view: see `biased_pade_`
        return self._layer(convolution.matrix(), bias, act)


def _skip(block: DecoderBlock, features: int) -> tuple[Tensor, Tensor | float]:
    """Weight and bias of a block's skip connection as a linear layer."""
    if isinstance(block.skip, nn.Linear):
        return block.skip.weight, block.skip.bias
    return torch.eye(features, device=block.linear1.weight.device), 0.0


def _normalised(linear: nn.Linear, norm: ConditionalBatchNorm, vector: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of a linear layer followed by its norm for one latent vector `[L]`."""
    scale, shift = norm.scale_and_shift(vector, norm.running_mean, norm.running_var)
    return linear.weight * scale[:, None], linear.bias * scale + shift

"""Pyramid OSS-Net: an occupancy network whose decoder reads the features of every level at the point itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from monai.networks.layers.utils import get_act_layer
from monai.utils import ensure_tuple_rep
from torch import Tensor, nn

from custom_nets.networks.base import (
    OccupancyNetworkBase,
    item_spacings,
    plain_tensor,
    resize_to_grid,
    unit_coordinates,
)
from custom_nets.networks.export_ops import (
    gather_windows_plainly,
    is_traced,
    reduce_in_mm_plainly,
    reduce_plainly,
    sample_plainly,
    sample_windows_plainly,
    scale_plainly,
)
from custom_nets.networks.pyramid.encoder import PyramidEncoder
from custom_nets.networks.pyramid.sampling import sample_features, sample_neighbourhoods


class PyramidLatent(NamedTuple):
    """What the encoder knows of a volume.

    Attributes:
        features: of each level, finest first: `[B, h, w, d, F]`, channels last. Every level spans the whole image.
        segmentation: auxiliary logits `[B, R, h, w, d]`, on a grid of at most an eighth of the image's resolution.
        spacing: of the image, mm `[B, 3]`.
    """

    features: tuple[Tensor, ...]
    segmentation: Tensor
    spacing: Tensor


class PyramidOSSNet(OccupancyNetworkBase):
    """Occupancy network with point features from an encoder pyramid.

    OSS-Net knows a volume by one global latent, and a place by a patch of raw voxels. Here the encoder is a feature
    pyramid over the reduced image; a point's features are trilinear samples of every level, the raw full-resolution
    neighbourhood and the position. No convolution ever runs at full resolution, and the decoder is small.

    Args:
        in_channels: modalities C.
        num_regions: regions R.
        spacing: length of a step in mm, in which `reduction` and the neighbourhood count, so that scans of any spacing
            are seen at one scale; None: a step is a voxel, whatever its size.
        reduction: steps to one voxel of the encoder along each axis, one number or three.
        channels: features of each level; every level halves the grid.
        depths: 3x3x3 convolutions of each level; None: one on the finest, where they cost most, two on the others.
        top_down: let every level but the finest take in the coarser one, see `PyramidEncoder`.
        neighbourhood: samples a side of the raw neighbourhood, a step apart, odd; 0 for none.
        contrast: two intensities, low and high; encoder and decoder then also see the image clipped to them and
            stretched to 0..1, for images in which the differences that matter are small (soft tissue in CT).
        hidden_features: width of the decoder's hidden layers.
        hidden_layers: how many of them.
        norm: normalisation by MONAI's names; one that needs no large batch.
        act: activation by MONAI's names, of encoder and decoder.
        points_per_chunk: points decoded at a time by the dense `forward(image)`.

    Raises:
        ValueError: for a neighbourhood that is not odd, a reduction below 1, a spacing that is no length, or a contrast
            that is not low and high.
    """

    accepts_positions = True
    """`decode` takes positions between the voxels too."""

    def __init__(
        self,
        in_channels: int = 4,
        num_regions: int = 3,
        spacing: float | None = None,
        reduction: int | Sequence[int] = 2,
        channels: Sequence[int] = (16, 32, 64, 128),
        depths: Sequence[int] | None = None,
        top_down: bool = False,
        neighbourhood: int = 3,
        contrast: Sequence[float] | None = None,
        hidden_features: int = 256,
        hidden_layers: int = 3,
        norm: str | tuple = ("group", {"num_groups": 8}),
        act: str | tuple = ("leakyrelu", {"inplace": True, "negative_slope": 0.01}),
        points_per_chunk: int = 16_384,
    ) -> None:
        super().__init__(points_per_chunk)
        if neighbourhood and neighbourhood % 2 == 0:
            msg = f"neighbourhood must be odd or 0, got {neighbourhood}"
            raise ValueError(msg)
        self.reduction = ensure_tuple_rep(reduction, 3)
        if min(self.reduction) < 1:
            msg = f"reduction must be at least 1, got {reduction}"
            raise ValueError(msg)
        if spacing is not None and not spacing > 0:
            msg = f"spacing must be a length in mm or None, got {spacing}"
            raise ValueError(msg)
        if contrast is not None and not (len(contrast) == 2 and contrast[0] < contrast[1]):
            msg = f"contrast must be two intensities, low before high, or None, got {contrast}"
            raise ValueError(msg)
        self.in_channels = in_channels
        self.contrast = contrast
        self.spacing = spacing
        self.neighbourhood = neighbourhood
        # The level whose cells are eight steps wide, or the next finer one.
        auxiliary_level = max(i for i in range(len(channels)) if i == 0 or max(self.reduction) * 2**i <= 8)
        depths = [1, *[2] * (len(channels) - 1)] if depths is None else depths
        views = in_channels * (1 if contrast is None else 2)
        encoder = PyramidEncoder(views, channels, depths, num_regions, auxiliary_level, norm, act, top_down)
        self.encoder = encoder.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        inputs = sum(channels) + views * neighbourhood**3 + 3
        widths = [inputs, *[hidden_features] * hidden_layers]
        layers: list[nn.Module] = []
        for i, o in pairwise(widths):
            layers += [nn.Linear(i, o), get_act_layer(act)]
        self.decoder = nn.Sequential(*layers, nn.Linear(widths[-1], num_regions))

    @property
    def bytes_per_point(self) -> int:
        """Memory that a point takes while it is decoded in inference, float32."""
        layers = [layer for layer in self.decoder if isinstance(layer, nn.Linear)]
        # Features and neighbourhood twice (sampled, joined), eight rows and weights of one level, two hidden layers.
        return (
            8 * (layers[0].in_features + max(layer.out_features for layer in layers))
            + 8 * (8 + 4) * 2
            + 3 * 8 * self.neighbourhood**3
        )

    def preferred_chunk(self, device: torch.device) -> int | None:
        """The decoder is narrow: large chunks, unlike those of OSS-Net, lose nothing."""
        return self.points_per_chunk if device.type == "cpu" else None

    def encode(self, image: Tensor) -> PyramidLatent:
        """Reduces an image `[B, C, H, W, D]` (anti-aliased) and encodes it.

        The spacing is read from the affine of a `MetaTensor`; any other tensor counts as 1 mm isotropic.
        """
        spacing = item_spacings(image).to(image.device, torch.float32)
        # A tracer is given no affine, and sizes in mm that are known: a graph without the spacing counts in voxels.
        return self._encode(self._reduce_plainly(image) if is_traced() else self._reduce(image, spacing), spacing)

    def encode_spaced(self, image: Tensor, spacing: Tensor) -> PyramidLatent:
        """Likewise, of an image whose voxels have a size `[B, 3]` in mm."""
        return self._encode(
            self._reduce_plainly(image, spacing) if is_traced() else self._reduce(image, spacing), spacing
        )

    def _encode(self, volume: Tensor, spacing: Tensor) -> PyramidLatent:
        # Images may travel in half precision; the network keeps its own.
        features, segmentation = self.encoder(self._views(volume.to(next(self.parameters()).dtype), dim=1))
        return PyramidLatent(tuple(f.movedim(1, -1).contiguous() for f in features), segmentation, spacing)

    def decode(self, latent: PyramidLatent, image: Tensor, points: Tensor) -> Tensor:
        """Decodes points.

        Args:
            latent: the result of `encode`.
            image: the full-resolution image `[B, C, H, W, D]` whose neighbourhoods are read.
            points: voxel indices `[B, N, 3]` of that image; or, as floating point numbers, positions between them.

        Returns:
            Logits `[B, N, R]`.
        """
        image, points = plain_tensor(image), plain_tensor(points)
        if is_traced():
            return self.decode_plainly(latent, image, points)
        size = image.shape[2:]
        shares = (points.float() + 0.5) / torch.tensor(size, dtype=torch.float32, device=points.device)
        parts = sample_features(latent.features, shares)
        if self.neighbourhood:
            samples = sample_neighbourhoods(image, points, self.neighbourhood, self._step(latent))
            parts.append(self._views(samples, dim=2).flatten(2))
        parts.append(unit_coordinates(points, size))
        return self.decoder(torch.cat([part.to(parts[0].dtype) for part in parts], dim=-1))

    def latent_of(self, tensors: Sequence[Tensor]) -> PyramidLatent:
        """The latent that has these tensors."""
        return PyramidLatent(tuple(tensors[:-2]), *tensors[-2:])

    def decode_plainly(self, latent: PyramidLatent, image: Tensor, points: Tensor) -> Tensor:
        """`decode` in plain operations, see `networks.traced`."""
        shares = scale_plainly(points, image, 0.5, False)
        parts = [sample_plainly(level, shares) for level in latent.features]
        if self.neighbourhood:
            step = self._step(latent)
            if step is None and not points.is_floating_point():
                samples = gather_windows_plainly(image, points, -(self.neighbourhood // 2), self.neighbourhood)
            else:
                one_voxel = torch.ones_like(points[:, 0], dtype=torch.float32)
                samples = sample_windows_plainly(image, points, one_voxel if step is None else step, self.neighbourhood)
            parts.append(self._views(samples, dim=2).flatten(2))
        parts.append(scale_plainly(points, image, 0.0, True))
        return self.decoder(torch.cat([part.to(parts[0].dtype) for part in parts], dim=-1))

    def _reduce(self, image: Tensor, spacing: Tensor) -> Tensor:
        """The encoder's view of an image."""
        return resize_to_grid(plain_tensor(image), self._grid_size(image.shape[2:], spacing))

    def _reduce_plainly(self, image: Tensor, spacing: Tensor | None = None) -> Tensor:
        coarsest = 2 ** (self.encoder.num_levels - 1)
        lengths = [r * coarsest * (self.spacing or 1.0) for r in self.reduction]
        if self.spacing is None or spacing is None:
            return reduce_plainly(plain_tensor(image), [round(1000 * length) for length in lengths], coarsest)
        return reduce_in_mm_plainly(plain_tensor(image), spacing, lengths, coarsest)

    def _views(self, values: Tensor, dim: int) -> Tensor:
        """What the network sees of intensities: with `contrast`, twice the channels along `dim`."""
        if self.contrast is None:
            return values
        low, high = self.contrast
        return torch.cat([values, (values.clamp(low, high) - low) / (high - low)], dim=dim)

    def _step(self, latent: PyramidLatent) -> Tensor | None:
        """A step in voxels `[B, 3]`, None where it is one voxel."""
        return None if self.spacing is None else self.spacing / latent.spacing

    def _grid_size(self, image_size: Sequence[int], spacing: Tensor) -> list[int]:
        """The encoder's grid: the image divided by the reduction, rounded up to whole cells of the coarsest level."""
        coarsest = 2 ** (self.encoder.num_levels - 1)
        voxels = [1.0] * 3 if self.spacing is None else (spacing.amax(dim=0) / self.spacing).tolist()
        steps = [size * voxel for size, voxel in zip(image_size, voxels, strict=True)]
        # A length that float32 puts just above a whole number of cells is that number.
        return [
            max(math.ceil(n / (r * coarsest) - 1e-3), 1) * coarsest for n, r in zip(steps, self.reduction, strict=True)
        ]

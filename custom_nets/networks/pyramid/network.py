"""Pyramid OSS-Net: an occupancy network whose decoder reads the features of every level at the point itself."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from monai.data import MetaTensor
from monai.networks.layers.utils import get_act_layer
from monai.utils import ensure_tuple_rep
from torch import Tensor, nn

from custom_nets.errors import InputError
from custom_nets.networks.base import OccupancyNetworkBase
from custom_nets.networks.export_ops import downsample_in_mm_plainly, downsample_plainly, is_traced
from custom_nets.networks.geometry import (
    image_sides,
    item_spacings,
    plain_tensor,
    resize_to_grid,
    unit_coordinates,
    unit_steps,
)
from custom_nets.networks.named_axes import NamedAxis
from custom_nets.networks.pyramid.encoder import PyramidEncoder
from custom_nets.networks.pyramid.sampling import sample_features, sample_neighbourhoods


class PyramidLatent(NamedTuple):
    """Output of the encoder.

    Attributes:
        features: of each level, finest first: `[B, h, w, d, F]`, channels last. Every level spans the whole image.
        segmentation: auxiliary logits `[B, R, h, w, d]`, on a grid of at most an eighth of the image's resolution.
        spacing: of the image, mm `[B, 3]`.
        sizes: voxels of each image `[B, 3]` in a batch that is padded; None: all of them.
    """

    features: tuple[Tensor, ...]
    segmentation: Tensor
    spacing: Tensor
    sizes: Tensor | None = None


@dataclass(frozen=True)
class PyramidSettings:
    """Settings of a `PyramidOSSNet` that are rarely changed.

    Args:
        depths: 3x3x3 convolutions of each level; None: one on the finest, where they cost most, two on the others.
        top_down: let every level but the finest take in the coarser one, see `PyramidEncoder`.
        neighbourhood: samples a side of the raw neighbourhood, a step apart, odd; 0 for none.
        hidden_layers: how many hidden layers the decoder has.
        norm: normalisation by MONAI's names; one that needs no large batch.
        act: activation by MONAI's names, of encoder and decoder.
        points_per_chunk: points decoded at a time by the dense `forward(image)`.
        modality_dropout: probability of each modality to be absent in training, see `ModalityDropout`.
        grid_size: cells along each axis of the encoder's view of any image, in place of `downsampling`: images of
            different sizes then make a batch, each of which fills the view (see `PyramidOSSNet.forward`); None: as
            `downsampling` makes it.

    Raises:
        InputError: for a neighbourhood that is not odd.
    """

    depths: Sequence[int] | None = None
    top_down: bool = False
    neighbourhood: int = 3
    hidden_layers: int = 3
    norm: str | tuple = ("group", {"num_groups": 8})
    act: str | tuple = ("leakyrelu", {"inplace": True, "negative_slope": 0.01})
    points_per_chunk: int = 16_384
    modality_dropout: float = 0.0
    grid_size: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.neighbourhood and self.neighbourhood % 2 == 0:
            msg = f"neighbourhood is {self.neighbourhood}; expected an odd number of samples, or 0"
            raise InputError(msg)


class PyramidOSSNet(OccupancyNetworkBase):
    """Occupancy network with point features from an encoder pyramid.

    OSS-Net knows a volume by one global latent, and a place by a patch of raw voxels. Here the encoder is a feature
    pyramid over the downsampled image; a point's features are trilinear samples of every level, the raw
    full-resolution neighbourhood and the position. No convolution ever runs at full resolution, and the decoder is
    small.

    Args:
        in_channels: modalities C.
        num_regions: regions R.
        spacing: length of a step in mm, in which `downsampling` and the neighbourhood count, so that scans of any
            spacing are seen at one scale; None: a step is a voxel, whatever its size.
        downsampling: steps to one voxel of the encoder along each axis, one number or three; their mean is taken.
        channels: features of each level; every level halves the grid.
        contrast: two intensities, low and high; encoder and decoder then also see the image clipped to them and
            stretched to 0..1, for images in which the differences that matter are small (soft tissue in CT).
        hidden_features: width of the decoder's hidden layers.
        settings: what is rarely changed.
        reduction: the former name of `downsampling`.

    Raises:
        InputError: for a downsampling below 1, a spacing that is no length, a contrast that is not low and high,
            depths of other levels than `channels`, a grid that cannot be halved for each level, or one with a spacing.
    """

    accepts_positions = True

    def __init__(
        self,
        in_channels: int = 4,
        num_regions: int = 3,
        spacing: float | None = None,
        downsampling: int | Sequence[int] = 2,
        channels: Sequence[int] = (16, 32, 64, 128),
        contrast: Sequence[float] | None = None,
        hidden_features: int = 256,
        settings: PyramidSettings = PyramidSettings(),
        reduction: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__(settings.points_per_chunk, settings.modality_dropout)
        if reduction is not None:
            warnings.warn("`reduction` is deprecated; its new name is `downsampling`", FutureWarning, stacklevel=2)
            downsampling = reduction
        self.downsampling = ensure_tuple_rep(downsampling, 3)
        if min(self.downsampling) < 1:
            msg = f"downsampling is {downsampling}; expected at least 1, one number or three"
            raise InputError(msg)
        if spacing is not None and not spacing > 0:
            msg = f"spacing is {spacing}; expected a length above 0 in mm, or null"
            raise InputError(msg)
        if contrast is not None and not (len(contrast) == 2 and contrast[0] < contrast[1]):
            msg = f"contrast is {contrast}; expected two intensities, low before high, or null"
            raise InputError(msg)
        coarsest, grid_size = 2 ** (len(channels) - 1), settings.grid_size
        if grid_size is not None and (len(grid_size) != 3 or any(side < 1 or side % coarsest for side in grid_size)):
            msg = f"grid_size is {list(grid_size)}; expected three multiples of {coarsest}, for {len(channels)} levels"
            raise InputError(msg)
        if grid_size is not None and spacing is not None:
            msg = f"grid_size is {list(grid_size)}, spacing is {spacing}; expected one of them, the other null"
            raise InputError(msg)
        self.grid_size = None if grid_size is None else tuple(grid_size)
        self.in_channels = in_channels
        self.contrast = contrast
        self.spacing = spacing
        self.counts_in_mm = spacing is not None
        self.neighbourhood = settings.neighbourhood
        # The level whose cells are eight steps wide, or the next finer one.
        auxiliary_level = max(i for i in range(len(channels)) if i == 0 or max(self.downsampling) * 2**i <= 8)
        depths = settings.depths or [1, *[2] * (len(channels) - 1)]
        if len(depths) != len(channels):
            msg = f"depths is {list(depths)}, channels is {list(channels)}; expected one number a level in both"
            raise InputError(msg)
        views = in_channels * (1 if contrast is None else 2)
        encoder = PyramidEncoder(
            views, channels, depths, num_regions, auxiliary_level, settings.norm, settings.act, settings.top_down
        )
        self.encoder = encoder.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        inputs = sum(channels) + views * self.neighbourhood**3 + 3
        widths = [inputs, *[hidden_features] * settings.hidden_layers]
        layers: list[nn.Module] = []
        for i, o in pairwise(widths):
            layers += [nn.Linear(i, o), get_act_layer(settings.act)]
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
        """Downsamples an image `[B, C, H, W, D]` (anti-aliased) and encodes it.

        The spacing is read from the affine of a `MetaTensor`; any other tensor counts as 1 mm isotropic.
        """
        spacing = item_spacings(image).to(image.device, torch.float32)
        # Sizes in mm that are known: neither a tracer nor a tensor without data could read them from a tensor.
        return self._encode(image, spacing, None if isinstance(image, MetaTensor) and not is_traced() else 1.0)

    def encode_spaced(self, image: Tensor, spacing: Tensor) -> PyramidLatent:
        """`encode` of an image whose voxels have a size `[B, 3]` in mm."""
        return self._encode(image, spacing)

    def encode_padded(self, image: Tensor, sizes: Tensor) -> PyramidLatent:
        """`encode` of a batch of images of `sizes` `[B, 3]`, padded at their far ends.

        Raises:
            InputError: without `grid_size`, by which an image's view depends on nothing else in its batch.
        """
        if self.grid_size is None:
            msg = "grid_size is null; images of different sizes make a batch on one grid alone: give it"
            raise InputError(msg)
        padded = plain_tensor(image)
        views = [
            resize_to_grid(item[None, :, :h, :w, :d], self.grid_size)
            for item, (h, w, d) in zip(padded, sizes.tolist(), strict=True)
        ]
        spacing = item_spacings(image).to(image.device, torch.float32)
        return self._encode_volume(torch.cat(views), spacing)._replace(sizes=sizes.to(image.device))

    def _encode(self, image: Tensor, spacing: Tensor, voxel: float | None = None) -> PyramidLatent:
        """Encodes images of a spacing; of `voxel` mm along every axis, where that is known without a look at it."""
        return self._encode_volume(self._downsample(plain_tensor(image), spacing, voxel), spacing)

    def _encode_volume(self, volume: Tensor, spacing: Tensor) -> PyramidLatent:
        """Encodes downsampled images."""
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
        sides = image_sides(image) if latent.sizes is None else latent.sizes[:, None].float()
        parts = sample_features(latent.features, (points.float() + 0.5) / sides)
        if self.neighbourhood:
            samples = sample_neighbourhoods(image, points, self.neighbourhood, self._step(latent))
            parts.append(self._views(samples, dim=2).flatten(2))
        parts.append(unit_coordinates(points, unit_steps(sides)))
        return self.decoder(torch.cat([part.to(parts[0].dtype) for part in parts], dim=-1))

    def named_axes(self) -> dict[str, NamedAxis | None]:
        """Returns the axes of weights that belong to single channels or regions, see `map_weights`."""
        views = 1 if self.contrast is None else 2
        inputs = self.get_parameter("decoder.0.weight").shape[1]
        features = inputs - 3 - views * self.in_channels * self.neighbourhood**3
        raw = NamedAxis("channels", 1, True, features, views, self.neighbourhood**3, 3)
        made = {f"encoder.segmentation.{part}": NamedAxis("regions", 0) for part in ("weight", "bias")}
        last = f"decoder.{len(self.decoder) - 1}"
        made |= {f"{last}.{part}": NamedAxis("regions", 0) for part in ("weight", "bias")}
        first = NamedAxis("channels", 1, True, views=views)
        return {"encoder.levels.0.0.conv.weight": first, "decoder.0.weight": raw, **made}

    def _views(self, values: Tensor, dim: int) -> Tensor:
        """Returns the intensities as the network sees them: with `contrast`, twice the channels along `dim`."""
        if self.contrast is None:
            return values
        low, high = self.contrast
        return torch.cat([values, (values.clamp(low, high) - low) / (high - low)], dim=dim)

    def _step(self, latent: PyramidLatent) -> Tensor | None:
        """A step in voxels `[B, 3]`, None where it is one voxel."""
        return None if self.spacing is None else self.spacing / latent.spacing

    def _downsample(self, image: Tensor, spacing: Tensor, voxel: float | None) -> Tensor:
        """The encoder's view of an image: on a grid of whole cells of the coarsest level, rounded up."""
        if self.grid_size is not None:
            return resize_to_grid(image, self.grid_size)
        coarsest = 2 ** (self.encoder.num_levels - 1)
        lengths = [steps * coarsest * (self.spacing or 1.0) for steps in self.downsampling]
        if is_traced():
            if self.spacing is None or voxel is not None:
                return downsample_plainly(image, [round(1000 * length) for length in lengths], coarsest)
            return downsample_in_mm_plainly(image, spacing, lengths, coarsest)
        if self.spacing is None:
            steps = [1.0] * 3
        elif voxel is not None:
            steps = [voxel / self.spacing] * 3
        else:
            steps = (spacing.amax(dim=0) / self.spacing).tolist()
        cells = [n * s / (r * coarsest) for n, s, r in zip(image.shape[2:], steps, self.downsampling, strict=True)]
        # A length that float32 puts just above a whole number of cells is that number.
        return resize_to_grid(image, [max(math.ceil(count - 1e-3), 1) * coarsest for count in cells])

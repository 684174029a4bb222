"""OSS-Net: occupancy networks for semantic segmentation, and its variants."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from custom_nets.errors import InputError
from custom_nets.networks.base import Decoder, OccupancyNetworkBase, working_dtype
from custom_nets.networks.geometry import image_sides, plain_tensor, resize_to_grid, unit_coordinates, unit_steps
from custom_nets.networks.named_axes import NamedAxis
from custom_nets.networks.ossnet.decoder import OSSNetDecoder
from custom_nets.networks.ossnet.encoder import Latent, OSSNetEncoder
from custom_nets.networks.ossnet.folded import FoldedDecoder
from custom_nets.networks.ossnet.patches import (
    PATCH_FEATURES,
    PATCH_SIZE,
    gather_local_patches,
    gather_mid_range_patches,
    pool_cells,
)
from custom_nets.networks.pade.activation import PadeActivation


class Variant(NamedTuple):
    """A variant of the paper: the patches that the decoder reads, and the kind of encoder."""

    local_patches: bool
    mid_range_patches: bool
    skip_encoder: bool


VARIANTS: dict[str, Variant] = {
    "onet": Variant(False, False, False),
    "a": Variant(True, False, False),
    "b": Variant(True, True, False),
    "c": Variant(True, False, True),
    "d": Variant(True, True, True),
}

# The sizes of the published networks; one region, voxel coordinates.
PUBLISHED: dict[str, dict] = {
    "brats": {
        "in_channels": 4,
        "grid_size": (128, 128, 80),
        "encoder_channels": (16, 32, 64, 128),
        "latent_size": (8, 8, 5),
    },
    "lits": {
        "in_channels": 1,
        "grid_size": (256, 256, 256),
        "encoder_channels": (8, 16, 32, 64, 128),
        "latent_size": (8, 8, 8),
    },
}


@dataclass(frozen=True)
class OSSNetSettings:
    """Settings of an `OSSNet` that are rarely changed.

    Args:
        coordinates: `unit` (each axis of the image -1..1) or `voxel` (raw indices, as the published weights expect).
        latent_size: grid of the latent vectors, L = its product; None: the grid after the last block.
        mid_range_pooling: `mean`, or `max` as the published inference pools.
        points_per_chunk: points decoded at a time by the dense `forward(image)`.
        compile_activations: see `PadeActivation`.
        modality_dropout: probability of each modality to be absent in training, see `ModalityDropout`.

    Raises:
        InputError: for an unknown kind of coordinates or pooling.
    """

    coordinates: str = "unit"
    latent_size: Sequence[int] | None = None
    mid_range_pooling: str = "mean"
    points_per_chunk: int = 2048
    compile_activations: bool = True
    modality_dropout: float = 0.0

    def __post_init__(self) -> None:
        for name, known in (("coordinates", ("unit", "voxel")), ("mid_range_pooling", ("mean", "max"))):
            if getattr(self, name) not in known:
                msg = f"{name} is '{getattr(self, name)}'; expected {' or '.join(known)}"
                raise InputError(msg)


class OSSNet(OccupancyNetworkBase):
    """Occupancy network for semantic segmentation.

    An encoder sees the image reduced to a coarse grid; a decoder gives the logits of any voxel of the full-resolution
    image, from the latent vectors, the voxel's position and (variants A to D) the patch around it.

    Args:
        variant: `onet` (no patches), `a` (local patches), `b` (local and mid-range), `c` and `d` (as `a` and `b`, with
            a skip encoder and an auxiliary segmentation).
        in_channels: modalities C.
        num_regions: regions R.
        grid_size: voxels `(h, w, d)` that the encoder sees, whatever the image's size.
        encoder_channels: features of each encoder block; every block halves the grid.
        hidden_features: width of the decoder.
        norm: the encoder's normalisation by MONAI's names.
        settings: what is rarely changed.

    Raises:
        InputError: for an unknown variant, or a grid too small for the blocks.

    Source: Reich et al., OSS-Net: Memory Efficient High Resolution Semantic Segmentation of 3D Medical Data, BMVC 2021.
    """

    def __init__(
        self,
        variant: str = "c",
        in_channels: int = 4,
        num_regions: int = 3,
        grid_size: Sequence[int] = (128, 128, 80),
        encoder_channels: Sequence[int] = (16, 32, 64, 128),
        hidden_features: int = 512,
        norm: str | tuple = "batch",
        settings: OSSNetSettings = OSSNetSettings(),
    ) -> None:
        super().__init__(settings.points_per_chunk, settings.modality_dropout)
        if variant not in VARIANTS:
            msg = f"variant is '{variant}'; expected one of {', '.join(VARIANTS)}"
            raise InputError(msg)
        if min(grid_size) < 2 ** len(encoder_channels):
            msg = (
                f"grid_size is {tuple(grid_size)}; expected at least {2 ** len(encoder_channels)} a side for "
                f"{len(encoder_channels)} encoder blocks"
            )
            raise InputError(msg)
        self.in_channels = in_channels
        self.variant = VARIANTS[variant]
        self.grid_size = tuple(grid_size)
        self.coordinates = settings.coordinates
        self.mid_range_pooling = settings.mid_range_pooling
        latent_size = settings.latent_size or [size >> len(encoder_channels) for size in grid_size]
        self.encoder = OSSNetEncoder(
            in_channels, encoder_channels, latent_size, num_regions, skips=self.variant.skip_encoder, norm=norm
        )
        self.decoder = OSSNetDecoder(
            num_regions,
            latent_length=math.prod(latent_size),
            patch_channels=in_channels * (self.variant.local_patches + self.variant.mid_range_patches),
            hidden_features=hidden_features,
        )
        for module in self.modules():
            if isinstance(module, PadeActivation):
                module.compiled = settings.compile_activations

    @classmethod
    def published(cls, variant: str = "c", dataset: str = "brats") -> OSSNet:
        """Builds exactly the published network of a dataset (`brats` or `lits`): one region, voxel coordinates.

        Raises:
            InputError: for an unknown dataset or variant.
        """
        if dataset not in PUBLISHED:
            msg = f"dataset is '{dataset}'; expected one of {', '.join(PUBLISHED)}"
            raise InputError(msg)
        sizes = dict(PUBLISHED[dataset])
        settings = OSSNetSettings(coordinates="voxel", latent_size=sizes.pop("latent_size"))
        return cls(variant, num_regions=1, settings=settings, **sizes)

    def named_axes(self) -> dict[str, NamedAxis | None]:
        """Returns the axes of weights that belong to single channels or regions, see `map_weights`; patches mix."""
        reads = {f"encoder.blocks.0.{part}.weight": NamedAxis("channels", 1, True) for part in ("conv1", "skip")}
        makes = {f"{part}.weight": NamedAxis("regions", 0) for part in ("encoder.segmentation", "decoder.to_logits")}
        mixed = (name for name in self.state_dict() if name.startswith("decoder.patch_mapping."))
        return {**reads, **makes, **dict.fromkeys(mixed)}

    @property
    def bytes_per_point(self) -> int:
        """Memory that a point takes while it is decoded in inference, float32."""
        hidden = self.decoder.to_logits.in_features
        if self.decoder.patch_mapping is None:
            return 4 * 4 * hidden
        outputs, inputs = self.decoder.patch_mapping.conv1.weight.shape[:2]
        # The patches twice (gathered, then joined or cast), the indices of their rows, and what is made of them.
        gathered = inputs * (2 * 4 * PATCH_FEATURES + 2 * 8 * PATCH_SIZE**2)
        return gathered + 4 * ((outputs + 1) * PATCH_FEATURES + 4 * hidden)

    def encode(self, image: Tensor) -> Latent:
        """Reduces an image `[B, C, H, W, D]` to the encoder's grid (anti-aliased) and encodes it."""
        volume = resize_to_grid(plain_tensor(image), self.grid_size)
        # Images may travel in half precision; the network keeps its own.
        return self.encoder(volume.to(next(self.encoder.parameters()).dtype))

    def prepared_bytes(self, image: Tensor) -> int:
        """Memory of the pooled image from which mid-range patches are gathered."""
        return image.numel() * image.element_size() if self.variant.mid_range_patches else 0

    def decode(self, latent: Latent, image: Tensor, points: Tensor) -> Tensor:
        """Decodes points.

        Args:
            latent: the result of `encode`.
            image: the full-resolution image `[B, C, H, W, D]` whose patches are read.
            points: integer voxel indices `[B, N, 3]` of that image.

        Returns:
            Logits `[B, N, R]`.
        """
        image, points = plain_tensor(image), plain_tensor(points)
        return self.decoder(
            latent, self._coordinates(points, unit_steps(image_sides(image))), self.gather_patches(image, points)
        )

    def prepare_decoder(self, latent: Latent, image: Tensor, dtype: torch.dtype | None = None) -> Decoder:
        """`decode` of one volume, its constants folded, see `OccupancyNetwork.prepare_decoder` and `FoldedDecoder`."""
        image = plain_tensor(image)
        folded = FoldedDecoder(self.decoder, latent.vectors, dtype or working_dtype(self, image.device))
        steps = unit_steps(image_sides(image))
        pooled = [pool_cells(image[0], self.mid_range_pooling)] if self.variant.mid_range_patches else None

        def decode(points: Tensor) -> Tensor:
            points = plain_tensor(points)
            patches = self.gather_patches(image, points, pooled)
            return folded(self._coordinates(points, steps)[0], None if patches is None else patches[0].flatten(1))[None]

        return decode

    def gather_patches(self, image: Tensor, points: Tensor, pooled: Sequence[Tensor] | None = None) -> Tensor | None:
        """Gathers what the decoder reads of the image: `[B, N, Cp, 7, 7, 7]`, local channels before mid-range ones.

        None for the variant without patches. For `pooled` see `gather_mid_range_patches`.
        """
        image, points = plain_tensor(image), plain_tensor(points)
        if not self.variant.local_patches:
            return None
        local = gather_local_patches(image, points)
        if not self.variant.mid_range_patches:
            return local
        return torch.cat([local, gather_mid_range_patches(image, points, self.mid_range_pooling, pooled)], dim=2)

    def _coordinates(self, points: Tensor, steps: Tensor) -> Tensor:
        """The coordinates that the decoder was trained with, float32, of voxel indices `[B, N, 3]`."""
        return points.float() if self.coordinates == "voxel" else unit_coordinates(points, steps)

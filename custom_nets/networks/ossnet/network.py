"""OSS-Net: occupancy networks for semantic segmentation, and its variants."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from custom_nets.networks.base import (
    OccupancyNetworkBase,
    plain_tensor,
    resize_to_grid,
    unit_coordinates,
    unit_steps,
    working_dtype,
)
from custom_nets.networks.export_ops import gather_windows_plainly, is_traced, scale_plainly
from custom_nets.networks.ossnet.decoder import OSSNetDecoder
from custom_nets.networks.ossnet.encoder import Latent, OSSNetEncoder
from custom_nets.networks.ossnet.folded import FoldedDecoder
from custom_nets.networks.ossnet.patches import (
    LOCAL_START,
    MID_RANGE_START,
    PATCH_FEATURES,
    PATCH_SIZE,
    gather_local_patches,
    gather_local_windows,
    gather_mid_range_patches,
    gather_pooled_windows,
    pool_cells,
)
from custom_nets.networks.pade.activation import PadeActivation


class Variant(NamedTuple):
    """What tells one variant from another: patches that the decoder reads, and the kind of encoder."""

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


class OSSNet(OccupancyNetworkBase):
    """Occupancy network for semantic segmentation.

    An encoder sees the image reduced to a coarse grid; a decoder answers for any voxel of the full-resolution image,
    from the latent vectors, the voxel's position and (variants A to D) the patch around it.

    Args:
        variant: `onet` (no patches), `a` (local patches), `b` (local and mid-range), `c` and `d` (as `a` and `b`, with
            a skip encoder and an auxiliary segmentation).
        in_channels: modalities C.
        num_regions: regions R.
        grid_size: voxels `(h, w, d)` that the encoder sees, whatever the image's size.
        coordinates: `unit` (each axis of the image -1..1) or `voxel` (raw indices, as the published weights expect).
        encoder_channels: features of each encoder block; every block halves the grid.
        latent_size: grid of the latent vectors, L = its product; default: the grid after the last block.
        hidden_features: width of the decoder.
        norm: the encoder's normalisation by MONAI's names.
        mid_range_pooling: `mean`, or `max` as the published inference pools.
        points_per_chunk: points decoded at a time by the dense `forward(image)`.
        compile_activations: see `PadeActivation`.

    Raises:
        ValueError: for an unknown variant or kind of coordinates, or a grid too small for the blocks.

    Source: Reich et al., OSS-Net: Memory Efficient High Resolution Semantic Segmentation of 3D Medical Data, BMVC 2021.
    """

    def __init__(
        self,
        variant: str = "c",
        in_channels: int = 4,
        num_regions: int = 3,
        grid_size: Sequence[int] = (128, 128, 80),
        coordinates: str = "unit",
        encoder_channels: Sequence[int] = (16, 32, 64, 128),
        latent_size: Sequence[int] | None = None,
        hidden_features: int = 512,
        norm: str | tuple = "batch",
        mid_range_pooling: str = "mean",
        points_per_chunk: int = 2048,
        compile_activations: bool = True,
    ) -> None:
        super().__init__(points_per_chunk)
        if variant not in VARIANTS:
            msg = f"variant must be one of {', '.join(VARIANTS)}, got '{variant}'"
            raise ValueError(msg)
        if coordinates not in ("unit", "voxel"):
            msg = f"coordinates must be 'unit' or 'voxel', got '{coordinates}'"
            raise ValueError(msg)
        if min(grid_size) < 2 ** len(encoder_channels):
            msg = (
                f"grid_size must be at least {2 ** len(encoder_channels)} a side for {len(encoder_channels)} encoder "
                f"blocks, got {tuple(grid_size)}"
            )
            raise ValueError(msg)
        self.in_channels = in_channels
        self.variant = VARIANTS[variant]
        self.grid_size = tuple(grid_size)
        self.coordinates = coordinates
        self.mid_range_pooling = mid_range_pooling
        latent_size = latent_size or [size >> len(encoder_channels) for size in grid_size]
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
                module.compiled = compile_activations

    @classmethod
    def published(cls, variant: str = "c", dataset: str = "brats") -> OSSNet:
        """Builds exactly the published network of a dataset (`brats` or `lits`): one region, voxel coordinates.

        Raises:
            ValueError: for an unknown dataset or variant.
        """
        if dataset not in PUBLISHED:
            msg = f"dataset must be one of {', '.join(PUBLISHED)}, got '{dataset}'"
            raise ValueError(msg)
        return cls(variant, num_regions=1, coordinates="voxel", **PUBLISHED[dataset])

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

    def decode(self, latent: Latent, image: Tensor, points: Tensor) -> Tensor:
        """Decodes points.

        Args:
            latent: the result of `encode`.
            image: the full-resolution image `[B, C, H, W, D]` whose patches are read.
            points: integer voxel indices `[B, N, 3]` of that image.

        Returns:
            Logits `[B, N, R]`.
        """
        image = plain_tensor(image)
        if is_traced():
            return self.decode_plainly(latent, image, points)
        return self.decoder(latent, self.to_coordinates(points, image.shape[2:]), self.gather_patches(image, points))

    def latent_of(self, tensors: Sequence[Tensor]) -> Latent:
        """The latent that has these tensors."""
        return Latent(tensors[0], tensors[1] if len(tensors) > 1 else None)

    def decode_plainly(self, latent: Latent, image: Tensor, points: Tensor) -> Tensor:
        """`decode` in plain operations, see `networks.traced`."""
        voxel = self.coordinates == "voxel"
        coordinates = points.float() if voxel else scale_plainly(points, image, 0.0, True)
        parts = []
        if self.variant.local_patches:
            parts.append(gather_windows_plainly(image, points, LOCAL_START, PATCH_SIZE))
        if self.variant.mid_range_patches:
            windows = gather_windows_plainly(image, points, MID_RANGE_START, 2 * PATCH_SIZE)
            pool = nn.functional.max_pool3d if self.mid_range_pooling == "max" else nn.functional.avg_pool3d
            parts.append(pool(windows.flatten(0, 1), 2).unflatten(0, points.shape[:2]))
        return self.decoder(latent, coordinates, torch.cat(parts, dim=2) if parts else None)

    def bind(self, latent: Latent, image: Tensor, dtype: torch.dtype | None = None) -> Callable[[Tensor], Tensor]:
        """`decode` for one volume, its constants folded, see `OccupancyNetworkBase.bind` and `FoldedDecoder`."""
        image = plain_tensor(image)
        folded = FoldedDecoder(self.decoder, latent.vectors, dtype or working_dtype(self, image.device))
        steps = unit_steps(image.shape[2:], image.device)
        local = image[0] if self.variant.local_patches else None
        pooled = pool_cells(image[0], self.mid_range_pooling) if self.variant.mid_range_patches else None

        def decode(points: Tensor) -> Tensor:
            points = plain_tensor(points)
            voxels, patches = points[0], None
            if local is not None:
                parts = [gather_local_windows(local, voxels).flatten(1)]
                parts += [] if pooled is None else [gather_pooled_windows(pooled, voxels).flatten(1)]
                patches = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
            coordinates = voxels.float() if self.coordinates == "voxel" else voxels * steps - 1
            return folded(coordinates, patches)[None]

        return decode

    def gather_patches(self, image: Tensor, points: Tensor) -> Tensor | None:
        """Gathers what the decoder reads of the image: `[B, N, Cp, 7, 7, 7]`, local channels before mid-range ones.

        None for the variant without patches.
        """
        image, points = plain_tensor(image), plain_tensor(points)
        if not self.variant.local_patches:
            return None
        local = gather_local_patches(image, points)
        if not self.variant.mid_range_patches:
            return local
        return torch.cat([local, gather_mid_range_patches(image, points, self.mid_range_pooling)], dim=2)

    def to_coordinates(self, points: Tensor, image_size: Sequence[int]) -> Tensor:
        """Turns voxel indices `[B, N, 3]` into the coordinates that the decoder was trained with, float32."""
        points = plain_tensor(points)
        return points.float() if self.coordinates == "voxel" else unit_coordinates(points, image_size)

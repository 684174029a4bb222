"""What every occupancy network shares: the training forward, the dense forward, and the choice of uncertain points."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.networks.utils import eval_mode
from torch import Tensor, nn

from custom_nets.networks.export_ops import grid_points, is_exporting, is_traced, resize_plainly
from custom_nets.networks.torchscript import ScriptedOccupancyNetwork

_HALVES = (torch.float16, torch.bfloat16)


class OccupancyNetworkBase(nn.Module):
    """An encoder that sees a volume once, and a decoder that answers at any point of it.

    A subclass writes `encode` and `decode`; for export also `decode_plainly` and `latent_of`, and names its
    `in_channels`.

    Args:
        points_per_chunk: points decoded at a time by the dense `forward(image)`.
    """

    def __init__(self, points_per_chunk: int) -> None:
        super().__init__()
        self.points_per_chunk = points_per_chunk

    @abstractmethod
    def encode(self, image: Tensor) -> Any:
        """Encodes an image `[B, C, H, W, D]`.

        The latent has the auxiliary logits `[B, R, h, w, d]`, or None, under the name `segmentation`.
        """

    @abstractmethod
    def decode(self, latent: Any, image: Tensor, points: Tensor) -> Tensor:
        """Logits `[B, N, R]` at the points `[B, N, 3]` of the image."""

    def encode_spaced(self, image: Tensor, spacing: Tensor) -> Any:
        """`encode` of an image whose voxels' size is known in mm `[B, 3]`, for a network to which it matters."""
        return self.encode(image)

    def decode_plainly(self, latent: Any, image: Tensor, points: Tensor) -> Tensor:
        """`decode` in operations that hold for all sizes and have a place in ONNX, see `networks.traced`."""
        raise NotImplementedError

    def latent_of(self, tensors: Sequence[Tensor]) -> Any:
        """The latent that has these tensors, in the order of its fields; absent ones are not among them."""
        raise NotImplementedError

    def bind(self, latent: Any, image: Tensor, dtype: torch.dtype | None = None) -> Callable[[Tensor], Tensor]:
        """What `decode` is for one volume, in inference.

        A subclass computes here, once, all that is the same for every point of the volume.

        Args:
            latent: the result of `encode` for this volume alone.
            image: `[1, C, H, W, D]`.
            dtype: precision of the decoder's matrix products; None: that of autocast where it is on, else of the
                weights.

        Returns:
            A function of points `[1, N, 3]` that returns their logits `[1, N, R]`, without gradient.
        """
        precision = dtype or working_dtype(self, image.device)

        def decode(points: Tensor) -> Tensor:
            with torch.no_grad(), torch.autocast(image.device.type, precision, enabled=precision != torch.float32):
                return self.decode(latent, image, points)

        return decode

    def preferred_chunk(self, device: torch.device) -> int | None:
        """Points at a time that suit this network on a device; None: as the inferer thinks best."""
        return None

    def forward(
        self, image: Tensor, points: Tensor | None = None, candidates: int = 0, uncertain: int = 0
    ) -> Tensor | tuple[Tensor, Tensor | None] | tuple[Tensor, Tensor | None, Tensor]:
        """Runs the network.

        Args:
            image: `[B, C, H, W, D]`.
            points: voxel indices `[B, N, 3]`.
            candidates: so many of the points, the last ones, are candidates of which only some are answered.
            uncertain: how many: those about which the network is least certain as it stands (the smallest |logit| of
                any region), found without gradient, as PointRend does (Kirillov et al., CVPR 2020, section 3.1).

        Returns:
            With points: their logits `[B, N, R]` and the auxiliary logits `[B, R, h, w, d]` (None for an encoder
            without them). With candidates also the indices `[B, N - candidates + uncertain]` of the answered points.
            Without points: dense logits `[B, R, H, W, D]`.
        """
        latent = self.encode(image)
        if points is None:
            return self.decode_dense(latent, image)
        if not candidates:
            return self.decode(latent, image, points), latent.segmentation
        chosen = self._choose(latent, image, points, candidates, uncertain)
        points = points.gather(1, chosen[..., None].expand(-1, -1, 3))
        return self.decode(latent, image, points), latent.segmentation, chosen

    def __prepare_scriptable__(self) -> nn.Module:
        """What `torch.jit.script` takes instead of this network."""
        return ScriptedOccupancyNetwork(self)

    def _choose(self, latent: Any, image: Tensor, points: Tensor, candidates: int, uncertain: int) -> Tensor:
        fixed = points.shape[1] - candidates
        # As in inference: the statistics of a batch norm must not learn from points that are thrown away.
        with eval_mode(self):
            certainty = self.decode(latent, image, points[:, fixed:]).abs().amin(dim=-1)
        picked = certainty.topk(uncertain, largest=False).indices + fixed
        always = torch.arange(fixed, device=picked.device).expand(len(picked), -1)
        return torch.cat([always, picked], dim=1)

    def decode_dense(self, latent: Any, image: Tensor) -> Tensor:
        """Logits `[B, R, H, W, D]` of every voxel of an image, `points_per_chunk` at a time."""
        size = image.shape[2:]
        if is_exporting():
            logits = self._scan_chunks(latent, plain_tensor(image))
            return logits[:, : math.prod(size)].transpose(1, 2).unflatten(2, size)
        chunks = []
        for flat in torch.arange(math.prod(size), device=image.device).split(self.points_per_chunk):
            points = torch.stack(torch.unravel_index(flat, tuple(size)), dim=-1)
            chunks.append(self.decode(latent, image, points.expand(len(image), -1, -1)))
        return torch.cat(chunks, dim=1).transpose(1, 2).reshape(len(image), -1, *size)

    def _scan_chunks(self, latent: Any, image: Tensor) -> Tensor:
        """The loop over chunks as one operation of a graph, for any number of them: logits `[B, M * chunk, R]`."""
        from torch._higher_order_ops.scan import scan  # since PyTorch 2.6; nothing but export needs it

        def step(number: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
            return number + 1, self.decode_plainly(latent, image, points.expand(image.shape[0], -1, -1))

        start = torch.zeros((), dtype=torch.int64, device=image.device)
        _, logits = scan(step, start, grid_points(image, self.points_per_chunk))
        return logits.movedim(0, 1).flatten(1, 2)


def resize_to_grid(image: Tensor, grid_size: Sequence[int]) -> Tensor:
    """Resizes `[B, C, H, W, D]` to `[B, C, h, w, d]`: the mean over each cell, trilinear where the grid is finer.

    For a factor of just 2 this is the trilinear resize of the published code. An image in half precision gives a
    float32 result on a CPU, which averages it row by row: a copy of a whole CT would cost more than all the rest.
    """
    if is_traced():
        return resize_plainly(image.float() if image.dtype in _HALVES else image, list(grid_size))
    grid = tuple(grid_size)
    h, w, d = (min(size, wanted) for size, wanted in zip(image.shape[2:], grid, strict=True))
    if image.is_cpu and image.dtype in _HALVES:
        rows = image.shape[2]
        # The cells of adaptive pooling.
        slabs = (image[:, :, i * rows // h : -(-(i + 1) * rows // h)].float() for i in range(h))
        volume = torch.cat([nn.functional.adaptive_avg_pool3d(slab, (1, w, d)) for slab in slabs], dim=2)
    else:
        volume = nn.functional.adaptive_avg_pool3d(image, (h, w, d))
    if volume.shape[2:] == grid:
        return volume
    return nn.functional.interpolate(volume, grid, mode="trilinear", align_corners=False)


def unit_steps(image_size: Sequence[int], device: torch.device) -> Tensor:
    """How far a voxel of each axis is in unit coordinates, float32 `[3]`; the first voxel is at -1, the last at 1."""
    return 2 / torch.tensor([max(size - 1, 1) for size in image_size], dtype=torch.float32, device=device)


def unit_coordinates(points: Tensor, image_size: Sequence[int]) -> Tensor:
    """Positions `[B, N, 3]` (voxels) as float32 in -1..1 from the first to the last voxel of each axis."""
    return points.float() * unit_steps(image_size, points.device) - 1


def working_dtype(module: nn.Module, device: torch.device) -> torch.dtype:
    """The precision of a network's matrix products: that of autocast where it is on, else that of its weights."""
    if torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return next(module.parameters()).dtype


def plain_tensor(tensor: Tensor) -> Tensor:
    """Strips MONAI's metadata, which costs time at every operation."""
    return tensor.as_subclass(Tensor) if isinstance(tensor, MetaTensor) else tensor


def item_spacings(image: Tensor) -> Tensor:
    """Spacing of each item of a batch `[B, C, H, W, D]` in mm `[B, 3]`; a plain tensor counts as 1 mm isotropic.

    A MetaTensor has its own affine, `[4, 4]` or `[B, 4, 4]`.
    """
    if not isinstance(image, MetaTensor):
        return torch.ones(len(image), 3, dtype=torch.float64)
    affines = image.affine.reshape(-1, 4, 4).expand(len(image), 4, 4)
    return torch.stack([affine_to_spacing(affine) for affine in affines])

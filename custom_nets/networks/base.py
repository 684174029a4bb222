"""Occupancy networks: what they all offer and declare, and what ours share beyond it."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from monai.networks.utils import eval_mode
from torch import Tensor, nn

from custom_nets.errors import InputError
from custom_nets.networks.export_ops import grid_points, is_exporting
from custom_nets.networks.geometry import plain_tensor
from custom_nets.networks.modality_dropout import ModalityDropout
from custom_nets.networks.torchscript import ScriptedOccupancyNetwork

Decoder = Callable[[Tensor], Tensor]
"""Maps points `[1, N, 3]` of one volume to their logits `[1, N, R]`."""


@runtime_checkable
class OccupancyNetwork(Protocol):
    """A network that sees a volume once and is then queried at points of it; all that inferers and tools know of it.

    A subclass (`class Mine(nn.Module, OccupancyNetwork)`) writes `encode` and `decode` and declares what differs from
    the defaults.

    Attributes:
        divisor: `encode` takes images whose sides are multiples of this.
        accepts_positions: `decode` also takes continuous positions (float32, in voxels of the image, 0 the centre of
            the first voxel).
        counts_in_mm: the size of a voxel in mm matters: `encode` reads it from the affine of a MetaTensor (a plain
            tensor counts as 1 mm isotropic), `encode_spaced` is given it.
    """

    divisor: int = 1
    accepts_positions: bool = False
    counts_in_mm: bool = False

    @abstractmethod
    def encode(self, image: Tensor) -> Any:
        """Encodes an image `[B, C, H, W, D]`.

        Returns:
            A latent: None, or tensors with a leading batch axis in any nesting of tuples, lists, mappings and
            dataclasses. It has the auxiliary logits `[B, R, h, w, d]`, where there are any, as `segmentation`.
        """

    @abstractmethod
    def decode(self, latent: Any, image: Tensor, points: Tensor) -> Tensor:
        """Logits `[B, N, R]` at the voxel indices `[B, N, 3]` of the image `[B, C, H, W, D]`, a plain tensor."""

    def encode_spaced(self, image: Tensor, spacing: Tensor) -> Any:
        """`encode` of an image whose voxels' size is known in mm `[B, 3]`."""
        return self.encode(image)

    def prepare_decoder(self, latent: Any, image: Tensor, dtype: torch.dtype | None = None) -> Decoder:
        """`decode` of one volume, with all that is the same for its points computed once.

        Args:
            latent: the result of `encode` for this volume alone.
            image: `[1, C, H, W, D]`.
            dtype: precision of the decoder's matrix products, for a network that can choose it; None: that of autocast
                where it is on, else of the weights.
        """
        return partial(self.decode, latent, image)

    def preferred_chunk(self, device: torch.device) -> int | None:
        """Points at a time that suit this network on a device; None: as the inferer thinks best."""
        return None

    @property
    def bytes_per_point(self) -> int:
        """Memory that a point takes while it is decoded; 0: unknown."""
        return 0

    def prepared_bytes(self, image: Tensor) -> int:
        """Memory that `prepare_decoder` keeps of an image `[1, C, H, W, D]` besides the latent."""
        return 0


def check_occupancy_network(network: Any, user: str) -> OccupancyNetwork:
    """Returns an occupancy network; a wrapper that keeps it in `module` (DistributedDataParallel) is looked through.

    Args:
        network: what was given for one.
        user: who needs it, for the message.

    Raises:
        InputError: when it is none.
    """
    if isinstance(network, type):
        msg = f"network: got the class {network.__name__}; {user} needs a network, such as {network.__name__}()"
        raise InputError(msg)
    model = network if isinstance(network, OccupancyNetwork) else getattr(network, "module", network)
    if isinstance(model, OccupancyNetwork):
        return model
    members = [name for name in vars(OccupancyNetwork) if not name.startswith("_")]
    missing = [name for name in members if not hasattr(model, name)]
    msg = (
        f"network: {type(model).__name__} is no occupancy network, it has no {', '.join(missing)}; {user} queries "
        "networks such as OSSNet and PyramidOSSNet, or of a class derived from custom_nets.networks.OccupancyNetwork "
        "with encode and decode; for networks that map images to logits take VolumeInferer"
    )
    raise InputError(msg)


def divisor_of(network: Any) -> int:
    """Returns the number that sides of an image must be multiples of, a network's `divisor`; 1 where it has none."""
    own = network if hasattr(network, "divisor") else getattr(network, "module", network)
    return int(getattr(own, "divisor", 1))


def working_dtype(module: nn.Module, device: torch.device) -> torch.dtype:
    """The precision of a network's matrix products: that of autocast where it is on, else that of its weights."""
    if torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return next(module.parameters()).dtype


class OccupancyNetworkBase(nn.Module, OccupancyNetwork):
    """Base of our occupancy networks: training and dense forward, the choice of uncertain points, scripting.

    A subclass writes `encode` and `decode` and sets `in_channels`. For export, both are made of operations that hold
    for all sizes while `export_ops.is_traced()`, and a latent is a named tuple of tensors, tuples of tensors and None.

    Args:
        points_per_chunk: points decoded at a time by the dense `forward(image)`.
        modality_dropout: probability of each modality to be absent in training, see `ModalityDropout`.
    """

    in_channels: int

    def __init__(self, points_per_chunk: int, modality_dropout: float = 0.0) -> None:
        super().__init__()
        self.points_per_chunk = points_per_chunk
        self.modality_dropout = ModalityDropout(modality_dropout)

    def prepare_decoder(self, latent: Any, image: Tensor, dtype: torch.dtype | None = None) -> Decoder:
        """`decode` of one volume without gradient, see `OccupancyNetwork.prepare_decoder`."""
        precision = dtype or working_dtype(self, image.device)

        def decode(points: Tensor) -> Tensor:
            with torch.no_grad(), torch.autocast(image.device.type, precision, enabled=precision != torch.float32):
                return self.decode(latent, image, points)

        return decode

    def forward(
        self,
        image: Tensor,
        points: Tensor | None = None,
        candidates: int = 0,
        uncertain: int = 0,
        sizes: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor | None] | tuple[Tensor, Tensor | None, Tensor]:
        """Runs the network.

        Args:
            image: `[B, C, H, W, D]`.
            points: voxel indices `[B, N, 3]`.
            candidates: so many of the points, the last ones, are candidates of which only some are decoded.
            uncertain: how many: those about which the network is least certain as it stands (the smallest |logit| of
                any region), found without gradient, as PointRend does (Kirillov et al., CVPR 2020, section 3.1).
            sizes: voxels `[B, 3]` of each image where they are padded, at the far ends, to the largest of the batch;
                None: all are of one size.

        Returns:
            With points: their logits `[B, N, R]` and the auxiliary logits `[B, R, h, w, d]` (None for an encoder
            without them). With candidates also the indices `[B, N - candidates + uncertain]` of the decoded points.
            Without points: dense logits `[B, R, H, W, D]`.
        """
        if self.training:  # the encoder and the neighbourhoods of the points lack the same ones
            image = self.modality_dropout(image)
        latent = self.encode(image) if sizes is None else self.encode_padded(image, sizes)
        if points is None:
            return self.decode_dense(latent, image)
        if not candidates:
            return self.decode(latent, image, points), latent.segmentation
        chosen = self._choose(latent, image, points, candidates, uncertain)
        points = points.gather(1, chosen[..., None].expand(-1, -1, 3))
        return self.decode(latent, image, points), latent.segmentation, chosen

    def encode_padded(self, image: Tensor, sizes: Tensor) -> Any:
        """`encode` of a padded batch of images of `sizes` `[B, 3]`.

        Raises:
            InputError: by networks that see a batch as one size.
        """
        msg = f"sizes: {type(self).__name__} takes images of one size; pad them before, or use PyramidOSSNet"
        raise InputError(msg)

    def __prepare_scriptable__(self) -> nn.Module:
        """Returns the module that `torch.jit.script` takes instead of this network."""
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
            return number + 1, self.decode(latent, image, points.expand(image.shape[0], -1, -1))

        start = torch.zeros((), dtype=torch.int64, device=image.device)
        _, logits = scan(step, start, grid_points(image, self.points_per_chunk))
        return logits.movedim(0, 1).flatten(1, 2)

"""Networks for `torch.jit.script`: traced parts, and the code that joins them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from monai.networks.utils import eval_mode
from torch import Tensor, nn

from custom_nets.networks.export_ops import grid_points

_EXAMPLE_SIDE = 16  # any that an encoder takes will do: what is traced holds for every size


class ScriptedNetwork(nn.Module):
    """A network that maps an image to logits, in evaluation."""

    def __init__(self, network: nn.Module, in_channels: int) -> None:
        super().__init__()
        example = _example_image(network, in_channels)
        self.divisor = int(getattr(network, "divisor", 1))
        self.network = _trace(network, network, example)

    def forward(self, x: Tensor) -> Tensor:
        """Runs the network on an image `[B, C, H, W, D]`."""
        return self.network(x)


class ScriptedOccupancyNetwork(nn.Module):
    """An occupancy network in evaluation: `encode`, `decode`, and the dense `forward(image)`, for images of any size.

    A latent is a list of tensors here. `spacing` (mm, `[B, 3]`; None: 1 mm isotropic) matters to a network that counts
    in millimetres.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.points_per_chunk: int = network.points_per_chunk
        image = _example_image(network, network.in_channels)
        spacing = torch.ones(1, 3, device=image.device)
        points = torch.zeros(1, 2, 3, dtype=torch.int64, device=image.device)
        with eval_mode(network):
            example = network.encode_spaced(image, spacing)
        latent = list(latent_tensors(example).values())
        self.encoder = _trace(network, TensorEncoder(network), image, spacing)
        self.decoder = _trace(network, TensorDecoder(network, LatentLayout.of(example)), latent, image, points)

    def forward(self, image: Tensor, spacing: Tensor | None = None) -> Tensor:
        """Dense logits `[B, R, H, W, D]` of an image `[B, C, H, W, D]`."""
        latent = self.encode(image, spacing)
        chunks = []
        for points in grid_points(image, self.points_per_chunk):
            chunks.append(self.decode(latent, image, points.expand(image.size(0), -1, -1)))
        logits = torch.cat(chunks, dim=1)[:, : image.size(2) * image.size(3) * image.size(4)]
        shape = [image.size(0), logits.size(2), image.size(2), image.size(3), image.size(4)]
        return logits.transpose(1, 2).reshape(shape)

    @torch.jit.export
    def encode(self, image: Tensor, spacing: Tensor | None = None) -> list[Tensor]:
        """The latent of an image `[B, C, H, W, D]`."""
        if spacing is None:
            spacing = torch.ones(image.size(0), 3, device=image.device)
        return self.encoder(image, spacing)

    @torch.jit.export
    def decode(self, latent: list[Tensor], image: Tensor, points: Tensor) -> Tensor:
        """Logits `[B, N, R]` at voxels `[B, N, 3]` of the image."""
        return self.decoder(latent, image, points)


class TensorEncoder(nn.Module):
    """`encode` of an occupancy network, with a list of tensors for the latent."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, spacing: Tensor) -> list[Tensor]:
        """Encodes an image `[B, C, H, W, D]` whose voxels have a size `[B, 3]` in mm."""
        return list(latent_tensors(self.network.encode_spaced(image, spacing)).values())


class TensorDecoder(nn.Module):
    """`decode` of an occupancy network, with a list of tensors for the latent."""

    def __init__(self, network: Any, layout: LatentLayout) -> None:
        super().__init__()
        self.network = network
        self.layout = layout

    def forward(self, latent: list[Tensor], image: Tensor, points: Tensor) -> Tensor:
        """Decodes voxels `[B, N, 3]` of the image to logits `[B, N, R]`."""
        return self.network.decode(self.layout.restore(latent), image, points)


def latent_tensors(latent: Any) -> dict[str, Tensor]:
    """The tensors of a latent (a named tuple of tensors, tuples of tensors and None) by name."""
    tensors: dict[str, Tensor] = {}
    for name, value in latent._asdict().items():
        if isinstance(value, tuple):
            tensors |= {f"{name}_{i}": tensor for i, tensor in enumerate(value)}
        elif value is not None:
            tensors[name] = value
    return tensors


class LatentLayout(NamedTuple):
    """Structure of a latent, which is made again of the tensors that `latent_tensors` gives.

    Attributes:
        kind: class of the latent, a named tuple.
        counts: tensors of each field: so many in a tuple, None for one by itself, 0 for none.
    """

    kind: type
    counts: tuple[int | None, ...]

    @classmethod
    def of(cls, latent: Any) -> LatentLayout:
        """The layout of a latent."""
        return cls(type(latent), tuple(len(v) if isinstance(v, tuple) else 0 if v is None else None for v in latent))

    def restore(self, tensors: Sequence[Tensor]) -> Any:
        """The latent that has these tensors."""
        left = iter(tensors)
        fields = [next(left) if n is None else tuple(islice(left, n)) or None for n in self.counts]
        return self.kind(*fields)


def _trace(network: nn.Module, part: nn.Module, *inputs: Any) -> torch.jit.ScriptModule:
    with eval_mode(network), warnings.catch_warnings():
        # Norm layers compare sizes to refuse an input; of our own code nothing is decided while tracing.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        # Not strict, so that a latent may be a list; not checked, as a check would trace it again.
        return torch.jit.trace(part.eval(), inputs, strict=False, check_trace=False)


def _example_image(network: nn.Module, in_channels: int) -> Tensor:
    weight = next(network.parameters())
    return torch.rand(1, in_channels, *[_EXAMPLE_SIDE] * 3, dtype=weight.dtype, device=weight.device)

"""Several occupancy networks, and mirrored images, as one occupancy network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from custom_nets.inferers.moments import Moments
from custom_nets.networks.base import Decoder, OccupancyNetwork

Axes = tuple[int, ...]


class EnsembleLatent(NamedTuple):
    """Latent of an `OccupancyEnsemble`.

    Attributes:
        members: the latent of each member.
        segmentation: auxiliary logits `[B, R, h, w, d]` of the mean probability, or None.
    """

    members: tuple[Any, ...]
    segmentation: Tensor | None


class OccupancyEnsemble(OccupancyNetwork):
    """An occupancy network whose probability at a point is the mean over its members'.

    Members are all pairs of a network and a set of mirrored axes: it sees the mirrored image and is queried at the
    mirrored point. The mean is that of probabilities at the same point, so that a search finds the surfaces of the
    mean; the mean of several searched volumes would count 0 and 1 where a member was not queried. Held at a time are
    the latents of all members and the image once for each set of axes.

    Args:
        networks: built alike.
        mirrors: sets of axes, of 0 (H), 1 (W) and 2 (D).
        spread: whether `decode` also gives, as R further channels, the standard deviation over the members, as the
            logit of a probability. It is at most one half: no search with a threshold from there on looks for it.
    """

    def __init__(self, networks: Sequence[OccupancyNetwork], mirrors: Sequence[Axes], spread: bool = False) -> None:
        self.members = [(network, axes) for network in networks for axes in mirrors]
        self.mirrors = mirrors
        self.spread = spread
        self.network = networks[0]
        self.divisor = self.network.divisor
        self.accepts_positions = self.network.accepts_positions
        self.counts_in_mm = self.network.counts_in_mm

    def encode(self, image: Tensor, *args: Any, **kwargs: Any) -> EnsembleLatent:
        """The latents of all members for an image `[B, C, H, W, D]`; `args` go to each network's `encode`."""
        latents = [network.encode(_mirrored(image, axes), *args, **kwargs) for network, axes in self.members]
        moments = Moments(spread=False)
        for latent, (_, axes) in zip(latents, self.members, strict=True):
            head = getattr(latent, "segmentation", None)
            if head is None:
                return EnsembleLatent(tuple(latents), None)
            moments.add(_mirrored(head.sigmoid(), axes))
        segmentation = moments.mean.logit()
        if self.spread:  # as many channels as logits; of these none is in a prior region
            segmentation = torch.cat((segmentation, torch.full_like(segmentation, -torch.inf)), dim=1)
        return EnsembleLatent(tuple(latents), segmentation)

    def decode(self, latent: EnsembleLatent, image: Tensor, points: Tensor) -> Tensor:
        """Logits `[B, N, R]` of the mean probability, or `[B, N, 2R]` with the spread."""

        def logits(network: OccupancyNetwork, member: Any, axes: Axes) -> Tensor:
            return network.decode(member, _mirrored(image, axes), _mirrored_points(points, axes, image.shape))

        pairs = zip(self.members, latent.members, strict=True)
        return self._combine([logits(network, member, axes) for (network, axes), member in pairs])

    def prepare_decoder(self, latent: EnsembleLatent, image: Tensor, dtype: torch.dtype | None = None) -> Decoder:
        """`decode` of one volume: the members' prepared decoders."""
        images = {axes: _mirrored(image, axes) for axes in self.mirrors}
        decoders = [
            (network.prepare_decoder(member, images[axes], dtype), axes)
            for (network, axes), member in zip(self.members, latent.members, strict=True)
        ]

        def decode(points: Tensor) -> Tensor:
            return self._combine([decoder(_mirrored_points(points, axes, image.shape)) for decoder, axes in decoders])

        return decode

    def preferred_chunk(self, device: torch.device) -> int | None:
        """That of a member: one is queried after the other."""
        return self.network.preferred_chunk(device)

    @property
    def bytes_per_point(self) -> int:
        """That of a member: one is queried after the other."""
        return self.network.bytes_per_point

    def prepared_bytes(self, image: Tensor) -> int:
        """The mirrored images, and what each member keeps."""
        mirrored = sum(bool(axes) for axes in self.mirrors) * image.numel() * image.element_size()
        return mirrored + sum(network.prepared_bytes(image) for network, _ in self.members)

    def _combine(self, logits: Sequence[Tensor]) -> Tensor:
        moments = Moments(self.spread)
        for part in logits:
            moments.add(part.float().sigmoid())
        return moments.result(dim=-1).logit()


def _mirrored(image: Tensor, axes: Axes) -> Tensor:
    """An image `[B, C, H, W, D]`, mirrored along some of H, W and D."""
    return image.flip([axis + 2 for axis in axes]) if axes else image


def _mirrored_points(points: Tensor, axes: Axes, shape: Sequence[int]) -> Tensor:
    """Mirrors points `[B, N, 3]` of an image; mirrored twice they are where they were."""
    if not axes:
        return points
    columns = list(points.unbind(dim=-1))
    for axis in axes:
        columns[axis] = shape[axis + 2] - 1 - columns[axis]
    return torch.stack(columns, dim=-1)

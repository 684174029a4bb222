"""Sizes of the chunks of points for the decoder: by cache, by memory, and smaller when memory runs out."""

from __future__ import annotations

import logging

import torch

from custom_nets.errors import InputError
from custom_nets.inferers.arguments import checked_count, is_number, shown
from custom_nets.networks.base import OccupancyNetwork

logger = logging.getLogger(__name__)

AUTO = "auto"

_ON_CPU = 2_048  # keeps a chunk's activations in the cache
_ELSEWHERE = 65_536
_LEAST = 64  # fewer points need next to no memory: halving on would not help
_SHARE_OF_FREE = 0.5  # of a GPU's memory: the allocator keeps some, and cuBLAS wants workspaces


class ChunkSize:
    """Most points in one call of the decoder; lowered for good each time memory does not suffice.

    Args:
        points: so many at most, or `auto`: what the network prefers (`preferred_chunk`) or, where it has no preference,
            2,048 on a CPU and 65,536 elsewhere.
        memory_limit: GiB that a chunk may take besides, by the network's own estimate (`bytes_per_point`); None: half
            of what is free on a GPU, no limit on a CPU. A network without an estimate knows no such limit.

    Raises:
        InputError: when an argument is out of its range.
    """

    def __init__(self, points: int | str | None = AUTO, memory_limit: float | None = None) -> None:
        self.points = (
            None
            if points is None or points == AUTO
            else checked_count("points_per_chunk", points, otherwise=", or auto")
        )
        if memory_limit is not None and not (is_number(memory_limit) and memory_limit > 0):
            msg = f"memory_limit is {shown(memory_limit)}; expected GiB above 0, or null"
            raise InputError(msg)
        self.memory_limit = memory_limit
        self._fits: int | None = None

    def choose(self, network: OccupancyNetwork, device: torch.device) -> int:
        """The points of a chunk for a network on a device, as things stand."""
        chunk = self.points or network.preferred_chunk(device) or (_ON_CPU if device.type == "cpu" else _ELSEWHERE)
        limit = self._limit(device)
        if network.bytes_per_point and limit is not None:
            chunk = min(chunk, int(limit / network.bytes_per_point))
        return max(1, min(chunk, self._fits or chunk))

    def lower(self, tried: int, device: torch.device) -> int:
        """Half of a chunk for which memory did not suffice; from now on no chunk is larger.

        Raises:
            InputError: when so few points need no memory to speak of.
        """
        if tried <= _LEAST:
            msg = (
                f"memory on {device} does not suffice to decode even {tried} points at a time: free some, use another "
                "device, or a smaller image (`custom-nets memory` tells what a volume needs)"
            )
            raise InputError(msg)
        if self._fits is None:
            logger.warning("memory on %s does not suffice for %d points at a time: going on with fewer", device, tried)
        self._fits = tried // 2
        if device.type == "cuda":
            torch.cuda.empty_cache()
        return self._fits

    def _limit(self, device: torch.device) -> float | None:
        if self.memory_limit is not None:
            return self.memory_limit * 2**30
        if device.type != "cuda":
            return None
        # What PyTorch holds but does not use is free as well.
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return (torch.cuda.mem_get_info(device)[0] + cached) * _SHARE_OF_FREE

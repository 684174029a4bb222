"""Queries of an occupancy network in chunks of bounded size, and their number."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from time import perf_counter
from typing import Any

import torch

from custom_nets.errors import InputError
from custom_nets.inferers.chunks import ChunkSize
from custom_nets.inferers.output_grid import OutputGrid
from custom_nets.inferers.surface_search.lattice import Shape, to_points
from custom_nets.networks.base import OccupancyNetwork
from custom_nets.networks.pade.activation import ran_out_of_memory


@dataclasses.dataclass
class QueryStats:
    """The queries of one call of an inferer, and its times.

    Args:
        voxels: voxels of the result, over the batch.
        stages: for each batch item, points queried in each stage.
        rounds: for each batch item, how often the surface was widened until nothing new was left to query.
        encode_seconds: time in `network.encode`.
        decode_seconds: time in `network.prepare_decoder` and the decoder.
        search_seconds: all the rest: choosing points and writing results.
    """

    voxels: int = 0
    stages: list[dict[str, int]] = dataclasses.field(default_factory=list)
    rounds: list[int] = dataclasses.field(default_factory=list)
    encode_seconds: float = 0.0
    decode_seconds: float = 0.0
    search_seconds: float = 0.0

    @property
    def queries(self) -> int:
        """Points queried in total."""
        return sum(self.queries_per_item)

    @property
    def queries_per_item(self) -> list[int]:
        """Points queried for each batch item."""
        return [sum(stages.values()) for stages in self.stages]

    @property
    def queries_per_stage(self) -> dict[str, int]:
        """Points queried in each stage, over the batch."""
        names = dict.fromkeys(name for stages in self.stages for name in stages)
        return {name: sum(stages.get(name, 0) for stages in self.stages) for name in names}

    @property
    def fraction(self) -> float:
        """Points queried for each voxel of the result; 1 for the dense mode."""
        return self.queries / self.voxels if self.voxels else 0.0


class VolumeQuery:
    """Queries the network at voxels of one batch item's result.

    Args:
        network: see `OccupancyNetwork`.
        latent: what `network.encode` returned, this item only (leading axis of length 1).
        image: this item `[1, C, H, W, D]`.
        chunk: how many points the network is given at a time.
        stats: where to count; one entry is added to its `stages` and `rounds`.
        grid: where the voxels lie; None: they are the image's, and the network is given whole voxel indices.
        dtype: precision of the decoder, see `OccupancyNetwork.prepare_decoder`.
    """

    def __init__(
        self,
        network: OccupancyNetwork,
        latent: Any,
        image: torch.Tensor,
        chunk: ChunkSize,
        stats: QueryStats,
        grid: OutputGrid | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.network = network
        self.latent = latent
        start = perf_counter()
        self._size = chunk.choose(network, image.device)
        self._decoder = network.prepare_decoder(latent, image, dtype)
        stats.decode_seconds += perf_counter() - start
        self.image = image
        self.chunk = chunk
        self.stats = stats
        self.grid = grid
        stats.stages.append({})
        stats.rounds.append(0)

    @property
    def shape(self) -> Shape:
        """Size of the result (H, W, D), the image's where there is no other grid."""
        height, width, depth = self.image.shape[2:] if self.grid is None else self.grid.shape
        return height, width, depth

    @property
    def device(self) -> torch.device:
        """Device of the image, on which all the search takes place."""
        return self.image.device

    @property
    def segmentation(self) -> torch.Tensor | None:
        """The encoder's auxiliary logits `[R, h, w, d]`, or None where the network has none."""
        logits = getattr(self.latent, "segmentation", None)
        return None if logits is None else logits[0].float()

    def prior(self) -> torch.Tensor:
        """The encoder's auxiliary probabilities `[R, h, w, d]`.

        Raises:
            InputError: when the network gives none.
        """
        logits = self.segmentation
        if logits is None:
            msg = (
                f"prior: {type(self.network).__name__} gives no auxiliary segmentation (latent.segmentation) to start "
                "from; set prior to 'none', or use a network that has one (OSS-Net C or D)"
            )
            raise InputError(msg)
        return logits.sigmoid()

    def __call__(self, flat: torch.Tensor, stage: str) -> torch.Tensor:
        """Logits at some voxels.

        Args:
            flat: flat indices `[N]` into the result (row-major, int64).
            stage: the name under which the points are counted.

        Returns:
            Logits `[N, R]`, float32. Without any points, R is the number of channels of the auxiliary segmentation.
        """
        counts = self.stats.stages[-1]
        counts[stage] = counts.get(stage, 0) + len(flat)
        if len(flat) == 0:
            regions = 1 if self.segmentation is None else len(self.segmentation)
            return torch.zeros((0, regions), device=self.device)
        start = perf_counter()
        logits = self._decode_all(flat)
        synchronize(self.device)
        self.stats.decode_seconds += perf_counter() - start
        return logits

    def _decode_all(self, flat: torch.Tensor) -> torch.Tensor:
        size = self._size
        done: list[torch.Tensor] = []
        start = 0
        while start < len(flat):
            try:
                done.append(self._decode(flat[start : start + size]))
            except RuntimeError as error:
                if not ran_out_of_memory(error):
                    raise
            else:
                start += size
                continue
            # Outside of the handler, whose traceback holds the activations.
            size = self._size = self.chunk.lower(min(size, len(flat) - start), self.device)
        return torch.cat(done)

    def _decode(self, flat: torch.Tensor) -> torch.Tensor:
        points = to_points(flat, self.shape) if self.grid is None else self.grid.positions(flat)
        logits = self._decoder(points[None])
        if logits.ndim != 3 or logits.shape[:2] != (1, len(flat)):
            msg = (
                f"{type(self.network).__name__}.decode gave logits of shape {list(logits.shape)}; "
                f"expected [1, {len(flat)}, regions] for {len(flat)} points"
            )
            raise InputError(msg)
        return logits[0].float()


def synchronize(device: torch.device) -> None:
    """Waits for queued work, so that times are charged to the part that caused them."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def item_of(latent: Any, index: int) -> Any:
    """One batch item of a latent: every tensor in it, sliced to length 1 along its first axis, without meta data.

    Args:
        latent: a tensor, None, or any nesting of (named) tuples, lists, mappings and dataclasses of them.
        index: which item.
    """
    if isinstance(latent, torch.Tensor):
        # MONAI's meta data would slow down every operation of every chunk.
        return latent.as_subclass(torch.Tensor)[index : index + 1]
    if isinstance(latent, Mapping):
        return {key: item_of(value, index) for key, value in latent.items()}
    if isinstance(latent, (tuple, list)):
        parts = [item_of(value, index) for value in latent]
        return type(latent)(*parts) if hasattr(latent, "_fields") else type(latent)(parts)
    if dataclasses.is_dataclass(latent) and not isinstance(latent, type):
        fields = [field.name for field in dataclasses.fields(latent)]
        return dataclasses.replace(latent, **{name: item_of(getattr(latent, name), index) for name in fields})
    return latent

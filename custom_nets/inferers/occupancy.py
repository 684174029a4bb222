"""Dense probabilities from an occupancy network, queried only where it matters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.utils import convert_to_dst_type

from custom_nets.errors import InputError
from custom_nets.inferers.arguments import check_image, shown
from custom_nets.inferers.chunks import AUTO, ChunkSize
from custom_nets.inferers.output_grid import OutputGrid, checked_spacing, describe, spanning_grid
from custom_nets.inferers.surface_search.lattice import Shape
from custom_nets.inferers.surface_search.published import published_volume
from custom_nets.inferers.surface_search.queries import QueryStats, VolumeQuery, item_of, synchronize
from custom_nets.inferers.surface_search.settings import WHOLE, OccupancyMode, SearchSettings, StepUnit, SurfaceSteps
from custom_nets.inferers.surface_search.surface import surface_volume, write
from custom_nets.networks.base import OccupancyNetwork, check_occupancy_network
from custom_nets.networks.geometry import item_spacings

_DENSE_BLOCK = 1 << 18


class OccupancyInferer(Inferer):
    """Dense probabilities `[B, R, H, W, D]` from a network that is queried at single points.

    The network is an `OccupancyNetwork`; it is queried for one batch item at a time. `encode` is given the inputs as
    they came, with their affine where they are a MetaTensor; the decoder plain tensors.

    The result lies on the image's voxels, or with `output_spacing` on a finer or coarser grid over the same box of
    space, with the same axes: max(1, round(H x image spacing / output spacing)) voxels along H, and likewise W and D,
    centred on the box where they do not fill it exactly. "Voxel" in `SearchSettings` then means a voxel of the result.
    Such a result is a MetaTensor whose affine describes its grid; the record of the image's transforms
    (`applied_operations`) does not fit that grid and is left off. Do not invert it: `Invertd` with the image as
    `orig_keys` would put the image's affine and record on it without a word. It needs no inversion, its affine already
    leads to world millimetres, and `ResampleToMatchd` brings it onto any other grid.

    Args:
        search: how the points are chosen; None: the defaults of `SearchSettings`.
        points_per_chunk: most points that the decoder is given at a time, or `auto` (also None): see `ChunkSize`. When
            memory does not suffice, the rest goes on with half as many.
        memory_limit: GiB that a chunk of points may take, see `ChunkSize`; None: half of a GPU's free memory.
        decoder_dtype: precision of the decoder's matrix products; None: that of autocast where it is on, else that of
            the weights. torch.bfloat16 takes about half the time where the processor knows it; its logits differ by a
            few hundredths.
        output_dtype: of the result; torch.float16 halves the memory of a large one (error up to 0.0003).
        output_spacing: spacing of the result in millimetres, one for all axes or one each for H, W and D; needs a
            network that takes continuous positions. None: the image's voxels. The image's spacing is read from its
            affine; a plain tensor counts as 1 mm.

    Attributes:
        stats: the queries of the last call, see `QueryStats`.

    Raises:
        InputError: when an argument is out of its range.
    """

    def __init__(
        self,
        search: SearchSettings | None = None,
        points_per_chunk: int | str | None = AUTO,
        memory_limit: float | None = None,
        decoder_dtype: torch.dtype | None = None,
        output_dtype: torch.dtype = torch.float32,
        output_spacing: float | Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.search = SearchSettings() if search is None else _checked_search(search)
        self.chunk = ChunkSize(points_per_chunk, memory_limit)
        self.decoder_dtype = decoder_dtype
        self.output_dtype = output_dtype
        self.output_spacing = checked_spacing(output_spacing, self.search.mode)
        self.stats = QueryStats()

    @torch.no_grad()
    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Infers the probabilities of every voxel.

        Args:
            inputs: image `[B, C, H, W, D]`.
            network: an `OccupancyNetwork`, or a wrapper that keeps it in `module` (DistributedDataParallel).
            args: passed on to `network.encode`.
            kwargs: passed on to `network.encode`.

        Returns:
            Probabilities `[B, R, H, W, D]`, of `output_dtype`, on the device and with the meta data of `inputs`. With
            `output_spacing`: `[B, R, H', W', D']`, a MetaTensor with the affine of that grid and no applied operations.

        Raises:
            InputError: when the image or the network does not fit, or the network lacks the prior that is set.
        """
        check_image(inputs)
        model = check_occupancy_network(network, type(self).__name__)
        start = perf_counter()
        image = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        grid = self._output_grid(inputs, model)
        shape = image.shape[2:] if grid is None else grid.shape
        self.stats = QueryStats(voxels=len(image) * math.prod(shape))
        latent = model.encode(inputs, *args, **kwargs)
        synchronize(image.device)
        self.stats.encode_seconds = perf_counter() - start
        result = self._infer(image, latent, model, grid, self._steps(inputs, grid))
        synchronize(image.device)
        elapsed = perf_counter() - start
        self.stats.search_seconds = elapsed - self.stats.encode_seconds - self.stats.decode_seconds
        if grid is not None:
            return describe(result, inputs, grid)
        return convert_to_dst_type(result, inputs, dtype=self.output_dtype)[0]

    def _output_grid(self, inputs: torch.Tensor, network: OccupancyNetwork) -> OutputGrid | None:
        if self.output_spacing is None:
            return None
        if not network.accepts_positions:
            msg = (
                f"output_spacing: {type(network).__name__} reads whole voxels; leave it null, or use a network that "
                "takes continuous positions (PyramidOSSNet)"
            )
            raise InputError(msg)
        return spanning_grid(inputs, self.output_spacing)

    def _steps(self, inputs: torch.Tensor, grid: OutputGrid | None) -> list[SurfaceSteps]:
        """The steps of the lattices for each batch item, in voxels of the result."""
        if self.search.step_unit == StepUnit.VOXEL:
            return [self.search.steps((1.0, 1.0, 1.0))] * len(inputs)
        step = (1.0, 1.0, 1.0) if grid is None else grid.step
        return [
            self.search.steps((h * step[0], w * step[1], d * step[2])) for h, w, d in item_spacings(inputs).tolist()
        ]

    def _infer(
        self,
        image: torch.Tensor,
        latent: Any,
        network: OccupancyNetwork,
        grid: OutputGrid | None,
        steps: list[SurfaceSteps],
    ) -> torch.Tensor:
        canvas = _Canvas(len(image), image.device, self.output_dtype)
        for index in range(len(image)):
            item = item_of(latent, index)
            query = VolumeQuery(
                network, item, image[index : index + 1], self.chunk, self.stats, grid, self.decoder_dtype
            )
            self._fill(query, partial(canvas.item, index, query.shape), steps[index])
        return canvas.volumes

    def _fill(self, query: VolumeQuery, allocate: Callable[[int], torch.Tensor], steps: SurfaceSteps) -> None:
        if self.search.mode == OccupancyMode.DENSE or self.search.band == WHOLE:
            _dense_volume(query, allocate)
        elif self.search.mode == OccupancyMode.PUBLISHED:
            published_volume(query, allocate, self.search)
        else:
            surface_volume(query, allocate, steps, self.search)


class _Canvas:
    """The result of a batch, allocated once, when the first logits tell the number of regions."""

    def __init__(self, batch: int, device: torch.device, dtype: torch.dtype) -> None:
        self.batch = batch
        self.device = device
        self.dtype = dtype
        self.volumes = torch.empty(0)

    def item(self, index: int, shape: Shape, regions: int) -> torch.Tensor:
        if self.volumes.numel() == 0:
            self.volumes = torch.zeros((self.batch, regions, *shape), dtype=self.dtype, device=self.device)
        return self.volumes[index]


def _dense_volume(query: VolumeQuery, allocate: Callable[[int], torch.Tensor]) -> None:
    voxels = math.prod(query.shape)
    for start in range(0, voxels, _DENSE_BLOCK):
        # Block by block: the indices of a whole CT would take more memory than its probabilities.
        flat = torch.arange(start, min(start + _DENSE_BLOCK, voxels), device=query.device)
        logits = query(flat, "dense")
        write(allocate(logits.shape[1]), flat, logits.sigmoid())


def _checked_search(search: Any) -> SearchSettings:
    if isinstance(search, SearchSettings):
        return search
    if isinstance(search, (torch.nn.Module, OccupancyNetwork)):
        name = type(search).__name__
        msg = (
            f"search: got the network {name}; expected SearchSettings, or nothing. The network is given in the call: "
            "OccupancyInferer()(image, network)"
        )
    else:
        msg = f"search is {shown(search)}; expected SearchSettings, such as SearchSettings(mode='dense'), or nothing"
    raise InputError(msg)

"""Dense probabilities from an occupancy network, asked only where it matters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.utils import StrEnum, convert_to_dst_type

from custom_nets.errors import InputError
from custom_nets.inferers.chunks import AUTO, ChunkSize
from custom_nets.inferers.output_grid import OutputGrid, Triple, checked_spacing, describe, spanning_grid
from custom_nets.inferers.surface_search.lattice import Shape
from custom_nets.inferers.surface_search.published import published_volume
from custom_nets.inferers.surface_search.queries import OccupancyNetwork, QueryStats, VolumeQuery, item_of, synchronize
from custom_nets.inferers.surface_search.surface import SurfaceSteps, surface_volume, write
from custom_nets.networks.base import item_spacings

_DENSE_BLOCK = 1 << 18
_CAUTIOUS_PRIOR = 0.25
_PUBLISHED_PRIOR = 0.5


class OccupancyMode(StrEnum):
    """How an `OccupancyInferer` chooses its points."""

    SURFACE = "surface"
    PUBLISHED = "published"
    DENSE = "dense"


class OccupancyPrior(StrEnum):
    """How an `OccupancyInferer` uses the encoder's auxiliary segmentation."""

    NONE = "none"
    UNION = "union"
    RESTRICT = "restrict"


class StepUnit(StrEnum):
    """What an `OccupancyInferer` measures its lattices in."""

    VOXEL = "voxel"
    MM = "mm"


class OccupancyInferer(Inferer):
    """Dense probabilities `[B, R, H, W, D]` from a network that answers for single points.

    The network needs two methods: `encode(image [B, C, H, W, D])`, which returns a latent (None, or tensors with a
    leading batch axis in any nesting of tuples, lists and mappings), and `decode(latent, image, points)`, which
    returns logits `[B, N, R]` for integer voxel indices `[B, N, 3]`. It is asked about one batch item at a time.
    `encode` is given the inputs as they came, with their affine where they are a MetaTensor; `decode` plain tensors.

    The network may have more members: `bind(latent, image, dtype)`, which returns what `decode` is for one volume, with
    all that is constant there computed once; `accepts_positions`, true where `decode` also takes continuous positions
    (float32, in voxels of the image, 0 the centre of the first voxel); `preferred_chunk(device)`, the most points that
    one call of `decode` should be given (None: no preference); and `bytes_per_point`, the memory that each takes.

    Modes:

    - `surface`: asks a coarse lattice, guesses a lattice of half the step by interpolation, asks those of its points
      that a face neighbour contradicts until none is contradicted any more, and so on down to the voxels.
      Above or below the threshold, the result equals the dense one in every 6-connected component of foreground or
      background that holds an asked voxel; only a component that slips through the lattices whole can be wrong (an
      object or a hole thinner than `coarse_step` everywhere). Voxels that were asked carry the network's
      probability, all others exactly 0 or 1. Any two face neighbours on different sides of the threshold were
      both asked, so marching cubes at the threshold meets only true probabilities.
    - `published`: the search of the paper's code (strides 4, 2, 1, dilations only), for comparison. `coarse_step`
      has no effect. Unlike the paper's code it takes images of any size.
    - `dense`: asks every voxel. `coarse_step` and the prior have no effect.

    Priors, from `latent.segmentation` (auxiliary logits `[B, R, h, w, d]` on any grid that spans the image):

    - `none`: the whole lattice.
    - `union`: the whole lattice, and one of half the step within one coarse cell of the prior region. Finds more
      small objects; misses nothing that `none` finds.
    - `restrict`: the lattice only within one coarse cell of the prior region (in mode `published`: only inside it,
      the paper's fast mode). Fewest queries, but an object that the prior misses is lost unless its surface joins
      one that it hits; or unless `scan_step` finds it.

    The result lies on the image's voxels, or with `output_spacing` on a finer or coarser grid over the same box of
    space, with the same axes: max(1, round(H x image spacing / output spacing)) voxels along H, and likewise W and D,
    centred on the box where they do not fill it exactly. "Voxel" above then means a voxel of the result. Such a result
    is a MetaTensor whose affine describes its grid; the record of the image's transforms (`applied_operations`) does
    not fit that grid and is left off. Do not invert it: `Invertd` with the image as `orig_keys` would put the image's
    affine and record on it without a word. It needs no inversion, its affine already leads to world millimetres, and
    `ResampleToMatchd` brings it onto any other grid.

    Source: OSS-Net (Reich et al., BMVC 2021); the coarse-to-fine search goes back to the multiresolution isosurface
    extraction of Occupancy Networks (Mescheder et al., CVPR 2019).

    Args:
        mode: `surface`, `published` or `dense`.
        coarse_step: spacing of the lattice; the last index of each axis always belongs to it.
        candidate_step: spacing of a second lattice, asked inside the outermost region once that is found, so that a
            small lesion between the points of the first is not lost; None: there is none. Mode `surface` alone.
        scan_step: spacing of a sparser lattice, asked everywhere besides, so that prior `restrict` does not lose what
            the auxiliary segmentation misses; best `coarse_step` times a power of two. None: there is none. Mode
            `surface` with prior `restrict` alone.
        step_unit: what these three are measured in: `voxel`, or `mm`, which is rounded to whole voxels along each axis
            (at least one; the spacing is read from the affine, a plain tensor counts as 1 mm).
        threshold: a region holds the voxels whose probability is strictly above it.
        prior: `none`, `union` or `restrict`.
        prior_threshold: the prior region holds the voxels strictly above it, in any region; None: 0.25, for a miss
            costs more than a few questions, and 0.5 in mode `published`.
        points_per_chunk: most points that the decoder is given at a time, or `auto` (also None): see `ChunkSize`. When
            memory does not suffice, the rest goes on with half as many.
        output_spacing: spacing of the result in millimetres, one for all axes or one each for H, W and D; needs a
            network that takes continuous positions. None: the image's voxels. The image's spacing is read from its
            affine; a plain tensor counts as 1 mm.
        output_dtype: of the result; torch.float16 halves the memory of a large one (error up to 0.0003).
        decoder_dtype: precision of the decoder's matrix products, of a network that has `bind`; None: that of autocast
            where it is on, else that of the weights. torch.bfloat16 takes about half the time where the processor
            knows it; its logits differ by a few hundredths.
        memory_limit: GiB that a chunk of points may take, see `ChunkSize`; None: half of a GPU's free memory.

    Attributes:
        stats: what the last call asked of the network, see `QueryStats`.

    Raises:
        InputError: when an argument is out of its range.
    """

    def __init__(
        self,
        mode: str = OccupancyMode.SURFACE,
        coarse_step: float = 4,
        threshold: float = 0.5,
        prior: str = OccupancyPrior.NONE,
        prior_threshold: float | None = None,
        points_per_chunk: int | str | None = AUTO,
        output_spacing: float | Sequence[float] | None = None,
        candidate_step: float | None = None,
        scan_step: float | None = None,
        step_unit: str = StepUnit.VOXEL,
        output_dtype: torch.dtype = torch.float32,
        decoder_dtype: torch.dtype | None = None,
        memory_limit: float | None = None,
    ) -> None:
        super().__init__()
        self.mode = OccupancyMode(_checked_choice("mode", mode, OccupancyMode))
        self.prior = OccupancyPrior(_checked_choice("prior", prior, OccupancyPrior))
        self.step_unit = StepUnit(_checked_choice("step_unit", step_unit, StepUnit))
        self.coarse_step = self._checked_step("coarse_step", coarse_step)
        self.candidate_step = None if candidate_step is None else self._checked_step("candidate_step", candidate_step)
        self.scan_step = None if scan_step is None else self._checked_step("scan_step", scan_step)
        self.threshold = _checked_probability("threshold", threshold)
        if prior_threshold is None:
            prior_threshold = _PUBLISHED_PRIOR if self.mode == OccupancyMode.PUBLISHED else _CAUTIOUS_PRIOR
        self.prior_threshold = _checked_probability("prior_threshold", prior_threshold)
        self.chunk = ChunkSize(points_per_chunk, memory_limit)
        self.decoder_dtype = decoder_dtype
        self.output_spacing = checked_spacing(output_spacing, self.mode)
        self.output_dtype = output_dtype
        self.stats = QueryStats()
        if self.mode == OccupancyMode.PUBLISHED and self.prior == OccupancyPrior.UNION:
            msg = "prior is 'union', unknown to mode 'published'; expected 'none' (standard) or 'restrict' (optimized)"
            raise InputError(msg)
        if self.scan_step is not None and not self.scan_step >= self.coarse_step:
            msg = (
                f"scan_step is {scan_step}, finer than coarse_step ({coarse_step}); expected at least as much, or null"
            )
            raise InputError(msg)

    @torch.no_grad()
    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Infers the probabilities of every voxel.

        Args:
            inputs: image `[B, C, H, W, D]`.
            network: see the class; a wrapper that keeps it in `module` (DistributedDataParallel) is looked through.
            args: passed on to `network.encode`.
            kwargs: passed on to `network.encode`.

        Returns:
            Probabilities `[B, R, H, W, D]`, of `output_dtype`, on the device and with the meta data of `inputs`. With
            `output_spacing`: `[B, R, H', W', D']`, a MetaTensor with the affine of that grid and no applied operations.

        Raises:
            InputError: when the image or the network does not fit, or the network lacks the prior asked for.
        """
        if inputs.ndim != 5:
            msg = f"inputs: shape {list(inputs.shape)} has {inputs.ndim} axes; expected an image [B, C, H, W, D]"
            raise InputError(msg)
        start = perf_counter()
        image = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        model = _unwrap(network)
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
        if not getattr(network, "accepts_positions", False):
            msg = (
                f"output_spacing: {type(network).__name__} reads whole voxels; leave it null, or use a network that "
                "takes continuous positions (PyramidOSSNet)"
            )
            raise InputError(msg)
        return spanning_grid(inputs, self.output_spacing)

    def _steps(self, inputs: torch.Tensor, grid: OutputGrid | None) -> list[SurfaceSteps]:
        """The steps of the lattices for each batch item, in voxels of the result."""
        if self.step_unit == StepUnit.VOXEL:
            sides = [(1.0, 1.0, 1.0)] * len(inputs)
        else:
            sides = [(h, w, d) for h, w, d in item_spacings(inputs).tolist()]
            if grid is not None:
                sides = [(h * grid.step[0], w * grid.step[1], d * grid.step[2]) for h, w, d in sides]
        lengths = (self.coarse_step, self.scan_step, self.candidate_step)
        return [SurfaceSteps(*(_in_voxels(length, side) for length in lengths)) for side in sides]

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
        if self.mode == OccupancyMode.DENSE:
            _dense_volume(query, allocate)
        elif self.mode == OccupancyMode.PUBLISHED:
            published_volume(query, allocate, self.threshold, self.prior, self.prior_threshold)
        else:
            surface_volume(query, allocate, steps, self.threshold, self.prior, self.prior_threshold)

    def _checked_step(self, name: str, step: float) -> float:
        if self.step_unit == StepUnit.VOXEL:
            return _checked_count(name, step)
        if not 0 < step < math.inf:
            msg = f"{name} is {step}; expected a length above 0 in mm"
            raise InputError(msg)
        return float(step)


def _in_voxels(step: float | None, sides: Triple) -> Any:
    return None if step is None else tuple(max(1, round(step / side)) for side in sides)


class _Canvas:
    """The result of a batch, allocated once, when the first answer tells the number of regions."""

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


def _unwrap(network: Any) -> OccupancyNetwork:
    model = network.module if not hasattr(network, "encode") and hasattr(network, "module") else network
    missing = [name for name in ("encode", "decode") if not hasattr(model, name)]
    if missing:
        msg = (
            f"network: {type(model).__name__} has no method {' and '.join(missing)}; an OccupancyInferer needs an "
            "occupancy network, for others use monai.inferers.SlidingWindowInferer"
        )
        raise InputError(msg)
    return model


def _checked_choice(name: str, value: str, choices: type[StrEnum]) -> str:
    known = [str(choice) for choice in choices]
    if str(value) not in known:
        msg = f"{name} is '{value}'; expected one of {', '.join(known)}"
        raise InputError(msg)
    return str(value)


def _checked_count(name: str, value: float) -> int:
    if int(value) != value or value < 1:
        msg = f"{name} is {value}; expected a whole number of at least 1"
        raise InputError(msg)
    return int(value)


def _checked_probability(name: str, value: float) -> float:
    if not 0 < value < 1:
        msg = f"{name} is {value}; expected a number between 0 and 1, both excluded"
        raise InputError(msg)
    return float(value)

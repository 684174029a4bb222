"""Synthetic BraTS cases: brains with tumours, to try everything without data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from tqdm import tqdm

from custom_nets.datasets.record import get_record
from custom_nets.errors import InputError
from custom_nets.tools.phantoms.brain_anatomy import FIELD_OF_VIEW, REACH, Head
from custom_nets.tools.phantoms.brain_lesions import Tumour, displace, grow_tumour, place_lesions, scatter_white_spots
from custom_nets.tools.phantoms.brain_styles import PhantomStyle, Scanner, Signals, get_style
from custom_nets.tools.phantoms.brain_tissues import BrainGrid, Tissues, grow_tissues
from custom_nets.tools.phantoms.files import check_folder, checked_whole, is_whole, write_nifti
from custom_nets.tools.phantoms.smooth_fields import FloatArray, SmoothField

RECORD = get_record("brats2018")
"""The data set whose layout the cases have."""

MODALITIES = tuple(channel.ends[0] for channel in RECORD.channels)
"""File name endings, in the order of the channels."""

MIN_VOXELS = 16
"""Fewest voxels along an axis: below, a tumour core is a voxel or two."""

# By how much a signal differs between cases, relative. Disease differs more, most of all in FLAIR.
HEALTHY_VARIATION = (0.06, 0.06, 0.06, 0.06)
DISEASE_VARIATION = (0.11, 0.06, 0.08, 0.10)
DISEASE = ("white spot", "oedema", "enhancing", "necrotic", "dark core")


class BrainPhantom(NamedTuple):
    """One synthetic case.

    Attributes:
        images: int16 `[4, H, W, D]`, channels as `MODALITIES`; 0 outside the brain and only there.
        label: uint8 `[H, W, D]`, numbers of BraTS 2020: 1 necrotic or non-enhancing core, 2 oedema, 4 enhancing.
    """

    images: NDArray[np.int16]
    label: NDArray[np.uint8]


def brain_phantom(shape: Sequence[int], seed: int = 0, case: int = 1, style: str = "standard") -> BrainPhantom:
    """Makes one synthetic brain with a tumour.

    The same seed, case and style give the same anatomy at every shape, and the same bytes at the same shape. In the
    standard style every sixth case (3, 9, …) has no enhancing tumour, and cases 2, 5, 8, … have several lesions; the
    other styles draw this for each case.

    Args:
        shape: voxels along each axis (left, back, up); the field of view is always 240 x 240 x 155 mm.
        seed: number of the cohort, not negative.
        case: number of the case in its cohort, from 1.
        style: standard, hard (ambiguous borders, low contrast, small lesions, several scanners) or shifted (as hard,
            taken with other scanners), see `phantom_styles`.

    Raises:
        InputError: when an argument makes no sense.
    """
    shape = _checked_shape(shape)
    look = get_style(style)
    streams = np.random.SeedSequence([checked_whole(seed, "seed", 0), checked_whole(case, "case", 1)]).spawn(7)
    rngs = [np.random.default_rng(stream) for stream in streams]
    shaping, placing, folding, growing, spotting, scanning, choosing = rngs
    head = Head(shaping)
    grid = BrainGrid(shape, head)
    lesions = place_lesions(placing, head, case, look)
    tissues = grow_tissues(folding, grid, head, displace(grid.points, grid.template, lesions), look)
    tumour = grow_tumour(growing, grid, tissues, lesions, look)
    spots = scatter_white_spots(spotting, grid, tissues, tumour, look)
    session = _draw_session(choosing, look)
    images = _scan(scanning, grid, _mix(tissues, tumour, spots), session)
    return BrainPhantom(images, grid.embed(grid.scatter(tumour.label)))


def write_brain_phantoms(
    directory: str | Path,
    cases: int,
    shape: Sequence[int] = (240, 240, 155),
    seed: int = 0,
    progress: bool = True,
    style: str = "standard",
) -> list[Path]:
    """Writes synthetic cases in the layout of BraTS 2020.

    Each is `BraTS20_Training_001/BraTS20_Training_001_{flair,t1,t1ce,t2,seg}.nii.gz`. A file of the same name is
    replaced, anything else in the folder is left alone, and an interrupted run leaves no half-written volume behind.

    Args:
        directory: folder the cases go into; made when it does not exist.
        cases: how many cases.
        shape: voxels along each axis; fewer voxels are larger voxels, see `brain_phantom`.
        seed: number of the cohort.
        progress: show a progress bar.
        style: standard, hard or shifted, see `brain_phantom`.

    Returns:
        The folders of the cases.

    Raises:
        InputError: when an argument makes no sense, or `directory` is a file.
    """
    shape = _checked_shape(shape)
    cases, seed = checked_whole(cases, "cases", 1), checked_whole(seed, "seed", 0)
    get_style(style)
    root = Path(directory)
    folders = [root / f"BraTS20_Training_{case:03d}" for case in range(1, cases + 1)]
    for path in (root, *folders):
        check_folder(path)
    affine = _affine(shape)
    for case, folder in enumerate(tqdm(folders, desc="brain phantoms", unit="case", disable=not progress), start=1):
        phantom = brain_phantom(shape, seed, case, style)
        folder.mkdir(parents=True, exist_ok=True)
        for name, volume in zip((*MODALITIES, RECORD.label_ends[0]), (*phantom.images, phantom.label), strict=True):
            write_nifti(folder / f"{folder.name}_{name}.nii.gz", volume, affine)
    return folders


class Session(NamedTuple):
    """Scan of one case: the scanner, signals of tissue, and how far disease is pulled to healthy ones."""

    scanner: Scanner
    signals: Signals
    pull: Mapping[str, float]


def _draw_session(rng: np.random.Generator, style: PhantomStyle) -> Session:
    scanner = style.scanners[int(rng.integers(len(style.scanners)))]
    return Session(scanner, style.all_signals, {name: float(rng.uniform(*style.pull)) for name in DISEASE})


def _mix(tissues: Tissues, tumour: Tumour, spots: FloatArray) -> dict[str, FloatArray]:
    """Fractions `[N]` of everything that has a signal of its own; they add up to 1."""
    healthy = {"white": tissues.white, "grey": tissues.grey, "fluid": tissues.fluid}
    layers = [("white spot", spots), ("vessel", tissues.vessel), ("plexus", tissues.plexus)]
    # Oedema is water between cells that are still there: their contrast shines through.
    layers.append(("oedema", np.float32(0.85) * tumour.oedema))
    layers.append(("necrotic", tumour.core))
    mixed = _overlay(healthy, layers)
    mixed["dark core"] = mixed["necrotic"] * tumour.solid
    mixed["necrotic"] = mixed["necrotic"] * (1 - tumour.solid)
    return _overlay(mixed, [("enhancing", np.minimum(tumour.enhancing, tumour.core))])


def _overlay(bottom: Mapping[str, FloatArray], layers: Sequence[tuple[str, FloatArray]]) -> dict[str, FloatArray]:
    """Lays fractions over each other: each takes its share from all that lie below."""
    mixed = dict(bottom)
    for name, fraction in layers:
        mixed = {below: value * (1 - fraction) for below, value in mixed.items()}
        mixed[name] = fraction
    return mixed


def _scan(
    rng: np.random.Generator, grid: BrainGrid, fractions: Mapping[str, FloatArray], session: Session
) -> NDArray[np.int16]:
    """Images `[4, H, W, D]` of the tissue, with the faults of a scanner: bias field, noise, blur, arbitrary units."""
    shared_bias = grid.sample(SmoothField(rng, 70.0, REACH))
    texture = grid.sample(SmoothField(rng, 4.0, REACH))
    inside = grid.scatter(grid.depth > 0)
    images = np.zeros((len(MODALITIES), *grid.shape), dtype=np.int16)
    scanner = session.scanner
    for channel in range(len(MODALITIES)):
        contrast = _draw_contrast(rng, channel, session)
        signal = sum(np.float32(contrast[name]) * fraction for name, fraction in fractions.items())
        if scanner.gamma[channel] != 1:
            signal = np.maximum(signal, 0) ** np.float32(scanner.gamma[channel])
        bias = scanner.bias * shared_bias + scanner.bias * grid.sample(SmoothField(rng, 60.0, REACH))
        signal = signal * np.exp(bias) * (1 + 0.03 * texture)
        noise = np.float32(rng.uniform(*scanner.noise)) * rng.standard_normal((2, signal.size), dtype=np.float32)
        received = grid.scatter(np.sqrt((signal + noise[0]) ** 2 + noise[1] ** 2))  # magnitude image: Rician noise
        blurred = ndimage.gaussian_filter(received, rng.uniform(*scanner.blur), truncate=3.0)
        gain = np.exp(rng.uniform(np.log(180), np.log(900)))
        # Never 0 inside: programs take the voxels that are not 0 for the brain.
        images[channel] = grid.embed(np.where(inside, np.clip(np.rint(gain * blurred), 1, 32767), 0).astype(np.int16))
    return images


def _draw_contrast(rng: np.random.Generator, channel: int, session: Session) -> dict[str, float]:
    """Signals of all tissues in one modality of one case."""
    contrast = {}
    for name, signal in session.signals.items():
        spread = (DISEASE_VARIATION if name in DISEASE else HEALTHY_VARIATION)[channel]
        contrast[name] = signal[channel] * float(rng.uniform(1 - spread, 1 + spread))
    for name, factors in session.scanner.contrast.items():
        contrast[name] *= factors[channel]
    brain = (contrast["white"] + contrast["grey"]) / 2
    return {name: value + session.pull.get(name, 0.0) * (brain - value) for name, value in contrast.items()}


def _affine(shape: Sequence[int]) -> NDArray[np.float64]:
    """Voxel to world matrix of BraTS 2020 (LPS voxel order), at this voxel size."""
    spacing = [size / n for size, n in zip(FIELD_OF_VIEW, shape, strict=True)]
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    affine[1, 3] = 239.0
    return affine


def _checked_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """Three voxel counts, or an `InputError`."""
    sizes = tuple(shape) if isinstance(shape, Sequence) and not isinstance(shape, str) else ()
    if len(sizes) != 3 or not all(is_whole(n) and n >= MIN_VOXELS for n in sizes):
        msg = f"shape is {shape!r}; expected three whole numbers of at least {MIN_VOXELS}, such as (240, 240, 155)"
        raise InputError(msg)
    return int(sizes[0]), int(sizes[1]), int(sizes[2])

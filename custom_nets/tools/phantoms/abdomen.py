"""Synthetic LiTS cases: CT of abdomens with liver tumours, to try everything without data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from nibabel import orientations
from numpy.typing import NDArray
from tqdm import tqdm

from custom_nets.errors import InputError
from custom_nets.tools.phantoms.abdomen_anatomy import LIVER_SPAN, REACH, Abdomen
from custom_nets.tools.phantoms.abdomen_grid import ScanGrid
from custom_nets.tools.phantoms.abdomen_tissues import tissue_layers
from custom_nets.tools.phantoms.files import check_folder, checked_whole, write_nifti
from custom_nets.tools.phantoms.liver_lesions import place_tumours, tumour_layers
from custom_nets.tools.phantoms.smooth_fields import FloatArray, SmoothField

ORIENTATIONS = ("LPS", "RAS", "LAS", "RPI", "LPI", "RPS", "RAI", "PLS", "SPL", "ILA")
"""Directions in which the voxel indices of a case grow: one of these."""

PADDING = (-2048, -3024)
"""HU that scanners write outside their round field of view."""

SPACING_LIMITS = (0.3, 20.0)
"""Smallest and largest voxel (mm): below, volumes do not fit the memory; above, there is no anatomy left."""

AIR = -1000.0
MAX_ANGLE = 8.0


class AbdomenPhantom(NamedTuple):
    """One synthetic case.

    Attributes:
        image: int16 `[H, W, D]`, HU.
        label: uint8 `[H, W, D]`, numbers of LiTS: 1 liver, 2 tumour.
        affine: float64 `[4, 4]`, from voxel indices to world millimetres (x to the right, y to the front, z up).
    """

    image: NDArray[np.int16]
    label: NDArray[np.uint8]
    affine: NDArray[np.float64]


def abdomen_phantom(
    seed: int = 0,
    case: int = 1,
    spacing: float | Sequence[float] | None = None,
    tumour_diameters: Sequence[float] | None = None,
) -> AbdomenPhantom:
    """Makes one synthetic abdomen with the liver in it, in portal-venous phase.

    The same seed and case give the same anatomy, at the same place in world millimetres, at every spacing, and the
    same bytes at the same spacing. Each case has its own voxel order; some are oblique, and some are padded outside a
    round field of view.

    Args:
        seed: number of the cohort, not negative.
        case: number of the case in its cohort, from 1.
        spacing: voxel size in mm. None draws one as in LiTS (0.6 to 0.95 mm, slices 0.7 to 5 mm); a number draws one
            around it (0.85 to 1.15 of it, slices 0.9 to 1.8 of it); three numbers are taken as they are, along
            left-right, front-back and head-feet whatever the order of the voxel axes.
        tumour_diameters: mm, one for each near-spherical tumour. None draws 0 to 6 irregular tumours of 5 to 45 mm.

    Raises:
        InputError: when an argument makes no sense, or the tumours do not fit into the liver.
    """
    spacing, diameters = _checked_spacing(spacing), _checked_diameters(tumour_diameters)
    streams = np.random.SeedSequence([checked_whole(seed, "seed", 0), checked_whole(case, "case", 1)]).spawn(5)
    setting, shaping, growing, sizing, scanning = (np.random.default_rng(stream) for stream in streams)
    scan = Scan.draw(setting)
    abdomen = Abdomen(shaping, scan.rotation, scan.centre)
    middle = sum(LIVER_SPAN) / 2 - scan.centre
    tumours = place_tumours(growing, abdomen, middle, diameters)
    grid = ScanGrid(scan.size, _draw_spacing(sizing, spacing))
    layers = [*tissue_layers(abdomen, grid), *tumour_layers(grid, tumours, abdomen.patient.signals["liver"])]
    texture = grid.sites().sample(SmoothField(shaping, 9.0, REACH))
    image, label = np.empty(grid.shape, dtype=np.int16), np.empty(grid.shape, dtype=np.uint8)
    noise = Noise(scanning, grid.shape)
    for slab, signal, numbers in grid.paint(layers, AIR):
        signal += np.float32(scan.texture) * grid.upsample(texture, slab)
        signal += noise.draw(len(signal)) * np.float32(scan.noise)
        image[slab] = np.clip(np.rint(signal), -1024, 3071)
        label[slab] = numbers
    if scan.padding is not None:
        x, y = grid.voxels[0][:, None], grid.voxels[1][None, :]
        outside = np.hypot(x, y) > scan.size[0] / 2
        image[outside] = scan.padding
        label[outside] = 0
    return _turn(image, label, scan, grid)


def write_abdomen_phantoms(
    directory: str | Path,
    cases: int,
    spacing: float | Sequence[float] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> list[Path]:
    """Writes synthetic cases in the layout of LiTS 2017.

    They are `volume-0.nii.gz` and `segmentation-0.nii.gz` and so on. A file of the same name is replaced, anything else
    in the folder is left alone, and an interrupted run leaves no half-written volume behind.

    Args:
        directory: folder the files go into; made when it does not exist.
        cases: how many cases.
        spacing: voxel size in mm, see `abdomen_phantom`.
        seed: number of the cohort.
        progress: show a progress bar.

    Returns:
        The volumes.

    Raises:
        InputError: when an argument makes no sense, or `directory` is a file.
    """
    cases, seed = checked_whole(cases, "cases", 1), checked_whole(seed, "seed", 0)
    spacing = _checked_spacing(spacing)
    root = Path(directory)
    check_folder(root)
    volumes = [root / f"volume-{number}.nii.gz" for number in range(cases)]
    for number, path in enumerate(tqdm(volumes, desc="abdomen phantoms", unit="case", disable=not progress)):
        phantom = abdomen_phantom(seed, number + 1, spacing)
        write_nifti(path, phantom.image, phantom.affine)
        write_nifti(root / f"segmentation-{number}.nii.gz", phantom.label, phantom.affine)
    return volumes


@dataclass(frozen=True)
class Scan:
    """Scan of one patient.

    Attributes:
        size: field of view in mm along left-right, front-back, head-feet.
        centre: height (mm) of its centre in the template of the anatomy.
        rotation: matrix `[3, 3]` from the scanner's frame to the patient's.
        origin: world position (mm) of its centre.
        orientation: directions in which the voxel indices grow.
        padding: HU outside the round field of view; None for a rectangular one.
        noise: standard deviation in HU.
        texture: standard deviation of the unevenness of tissue in HU.
    """

    size: tuple[float, float, float]
    centre: float
    rotation: FloatArray
    origin: FloatArray
    orientation: str
    padding: int | None
    noise: float
    texture: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Scan:
        """Draws a scan that holds the whole liver."""
        above, below = float(rng.uniform(12, 50)), float(rng.uniform(12, 70))
        bottom, top = LIVER_SPAN[0] - below, LIVER_SPAN[1] + above
        padded, oblique = rng.random() < 0.4, rng.random() < 0.35
        padding = int(rng.choice(PADDING))
        axis = rng.normal(0, 1, 3)
        angle = np.deg2rad(rng.uniform(2, MAX_ANGLE)) if oblique else 0.0
        return cls(
            size=(float(rng.uniform(335, 400)), float(rng.uniform(265, 330)), top - bottom),
            centre=(top + bottom) / 2,
            rotation=_rotation(axis / np.sqrt((axis**2).sum()), float(angle)),
            origin=np.array([*rng.uniform(-8, 8, 1), *rng.uniform(-30, 30, 1), *rng.uniform(-600, 400, 1)]),
            orientation=str(rng.choice(ORIENTATIONS)),
            padding=padding if padded else None,
            noise=float(rng.uniform(8, 20)),
            texture=float(rng.uniform(2, 5)),
        )


class Noise:
    """Noise of standard deviation 1 in which neighbours within a slice are alike, made slab by slab.

    Args:
        rng: its generator.
        shape: voxels of the volume along each axis; slabs follow each other along the first.
    """

    ALIKE = 0.5

    def __init__(self, rng: np.random.Generator, shape: Sequence[int]) -> None:
        self.rng = rng
        self.size = (shape[1] + 1, shape[2])
        self.last = rng.standard_normal((1, *self.size), dtype=np.float32)

    def draw(self, rows: int) -> FloatArray:
        """Noise `[rows, W, D]` of the next slab."""
        white = np.concatenate([self.last, self.rng.standard_normal((rows, *self.size), dtype=np.float32)])
        self.last = white[-1:].copy()
        blurred = white[1:]
        blurred += np.float32(self.ALIKE) * white[:-1].copy()
        blurred = blurred[:, 1:] + np.float32(self.ALIKE) * blurred[:, :-1]
        blurred /= np.float32(1 + self.ALIKE**2)
        return blurred


def _rotation(axis: FloatArray, angle: float) -> FloatArray:
    """Matrix `[3, 3]` of the turn by an angle about a unit axis (Rodrigues' formula)."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) * np.cos(angle) + np.sin(angle) * cross + (1 - np.cos(angle)) * np.outer(axis, axis)


def _turn(image: NDArray[np.int16], label: NDArray[np.uint8], scan: Scan, grid: ScanGrid) -> AbdomenPhantom:
    """Puts the voxels, which run right, front and up, in the case's own order."""
    affine = np.eye(4)
    affine[:3, :3] = scan.rotation * np.array(grid.spacing)
    affine[:3, 3] = scan.origin - (affine[:3, :3] * (np.array(grid.shape) - 1) / 2).sum(axis=1)
    here, there = (orientations.axcodes2ornt(code) for code in ("RAS", scan.orientation))
    turn = orientations.ornt_transform(here, there)
    volumes = [np.ascontiguousarray(orientations.apply_orientation(volume, turn)) for volume in (image, label)]
    return AbdomenPhantom(volumes[0], volumes[1], affine @ orientations.inv_ornt_aff(turn, grid.shape))


def _draw_spacing(
    rng: np.random.Generator, spacing: float | tuple[float, float, float] | None
) -> tuple[float, float, float]:
    """Voxel size in mm of one scan."""
    if isinstance(spacing, tuple):
        return spacing
    if spacing is None:
        plane, slices = float(rng.uniform(0.6, 0.95)), float(np.exp(rng.uniform(np.log(0.7), np.log(5))))
    else:
        plane, slices = spacing * float(rng.uniform(0.85, 1.15)), spacing * float(rng.uniform(0.9, 1.8))
    return plane, plane, slices


def _checked_spacing(spacing: float | Sequence[float] | None) -> float | tuple[float, float, float] | None:
    """One or three voxel sizes, or an `InputError`."""
    if spacing is None:
        return None
    low, high = SPACING_LIMITS
    if isinstance(spacing, Sequence) and len(spacing) == 3 and all(_is_between(v, low, high) for v in spacing):
        return float(spacing[0]), float(spacing[1]), float(spacing[2])
    if not isinstance(spacing, Sequence) and _is_between(spacing, low, high):
        return float(spacing)
    msg = f"spacing is {spacing!r}; expected one or three numbers from {low:g} to {high:g} (mm), such as (1, 1, 2.5)"
    raise InputError(msg)


def _checked_diameters(diameters: Sequence[float] | None) -> list[float] | None:
    """Tumour diameters, or an `InputError`."""
    if diameters is None:
        return None
    if isinstance(diameters, Sequence) and all(_is_between(v, 1, 100) for v in diameters):
        return [float(v) for v in diameters]
    msg = f"tumour_diameters is {diameters!r}; expected a list of numbers from 1 to 100 (mm), such as [6, 10, 15]"
    raise InputError(msg)


def _is_between(value: object, low: float, high: float) -> bool:
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    return number and bool(low <= value <= high)  # type: ignore[operator]

"""Damaged and odd data sets, built in a moment, and the files that they are made of."""

import gzip
import shutil
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage

from tests.dicom_files import changed, save_dicom

Build = Callable[[Path], None]
Edit = Callable[[Path], None]
"""Changes the folder of one case, the odd one of two."""

SHAPE = (16, 16, 12)
ENDS = ("flair", "t1", "t1ce", "t2")
ALL = (*ENDS, "seg")
GOOD = ("BraTS20_Training_001", "BraTS20_Training_002")
ODD = "BraTS20_Training_009"
LPS = np.array([[-1.0, 0, 0, 0], [0, -1, 0, 15], [0, 0, 1, 0], [0, 0, 0, 1]])
CT_LPS = np.diag([-8.0, -8, 8, 1])


def distance(shape: Sequence[int] = SHAPE, middle: float = 0.0) -> np.ndarray:
    """Distances from a point near the middle, 1 at the faces."""
    axes = [np.linspace(-1, 1, size) - middle for size in shape]
    return np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")))


def save(path: Path, voxels: np.ndarray, affine: np.ndarray = LPS, kind: Any = nib.Nifti1Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(kind(voxels, affine), path)
    return path


# ------------------------------------------------------------------------------------------------ brains
def write_brain(
    root: Path, name: str, seed: int = 0, affine: np.ndarray = LPS, shape: Sequence[int] = SHAPE, ends=ENDS, sep="_",
    label: str | None = "seg", folder: str | None = None, suffix: str = ".nii.gz",
) -> Path:  # fmt: skip
    """Writes a head with a tumour of three tissues."""
    rng = np.random.default_rng(seed)
    case = root / (name if folder is None else folder)
    to_middle, to_tumour = distance(shape), distance(shape, 0.1)
    tissue = np.select([to_tumour < 0.2, to_tumour < 0.35, to_tumour < 0.5], [1, 4, 2], 0).astype(np.uint8)
    for number, end in enumerate(ends):
        voxels = 300.0 + 100 * number + 80.0 * tissue + rng.normal(0, 20, shape)
        save(case / f"{name}{sep}{end}{suffix}", np.where(to_middle < 0.85, voxels, 0).astype(np.int16), affine)
    if label:
        save(case / f"{name}{sep}{label}{suffix}", tissue, affine)
    return case


def brains(*edits: Edit, **kwargs: Any) -> Build:
    """A good case and one that is edited."""

    def build(root: Path) -> None:
        write_brain(root, GOOD[0])
        case = write_brain(root, ODD, 9, **kwargs)
        for edit in edits:
            edit(case)

    return build


def brains_and(*extra: Build) -> Build:
    """Two good cases and whatever else."""

    def build(root: Path) -> None:
        for number, name in enumerate(GOOD):
            write_brain(root, name, number)
        for one in extra:
            one(root)

    return build


def file_of(case: Path, end: str = "flair") -> Path:
    """The file of an end, of any suffix; a CT's `volume-9` or `segmentation-9`."""
    return next(
        file for file in sorted(case.iterdir()) if file.name.split(".")[0].endswith(end) and ".nii" in file.name
    )


def voxels(change: Callable[[np.ndarray], Any], *ends: str, dtype: Any = np.float32) -> Edit:
    """Changes voxels in place, or replaces them by what `change` returns."""

    def edit(case: Path) -> None:
        for end in ends or ("flair",):
            file = file_of(case, end)
            image = nib.load(file)
            array = np.array(image.dataobj).astype(dtype)
            new = change(array)
            save(file, array if new is None else new, image.affine)

    return edit


def put(value: float, where: Any = (8, 8, 6), *ends: str, dtype: Any = np.float32) -> Edit:
    return voxels(lambda array: array.__setitem__(where, value), *ends, dtype=dtype)


def affine(change: Callable[[np.ndarray], np.ndarray], *ends: str) -> Edit:
    def edit(case: Path) -> None:
        for end in ends:
            file = file_of(case, end)
            image = nib.load(file)
            save(file, np.asarray(image.dataobj), change(image.affine.copy()))

    return edit


def moved(by: float, *ends: str) -> Edit:
    def change(matrix: np.ndarray) -> np.ndarray:
        matrix[0, 3] += by
        return matrix

    return affine(change, *ends)


def header(at: int, value: bytes, *ends: str) -> Edit:
    """Writes bytes over a header, as nibabel would not."""

    def edit(case: Path) -> None:
        for end in ends:
            file = file_of(case, end)
            raw = bytearray(gzip.decompress(file.read_bytes()))
            raw[at : at + len(value)] = value
            file.write_bytes(gzip.compress(bytes(raw)))

    return edit


def dimensions(*sizes: int) -> bytes:
    return struct.pack("<8h", len(sizes), *sizes, *[1] * (7 - len(sizes)))


def codes(qform: int, sform: int) -> Edit:
    return header(252, struct.pack("<2h", qform, sform), *ALL)


def stored(change: Callable[[bytes], bytes], end: str = "flair") -> Edit:
    """Changes the bytes of a file as they lie on the disk."""

    def edit(case: Path) -> None:
        file = file_of(case, end)
        file.write_bytes(change(file.read_bytes()))

    return edit


def flipped(at: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        raw = bytearray(data)
        raw[at] ^= 0xFF
        return bytes(raw)

    return change


def without(end: str) -> Edit:
    return lambda case: file_of(case, end).unlink()


def renamed(end: str, name: str) -> Edit:
    def edit(case: Path) -> None:
        file = file_of(case, end)
        file.rename(file.with_name(name))

    return edit


def copied(end: str, name: str) -> Edit:
    return lambda case: shutil.copy(file_of(case, end), case / name)


def from_other(end: str) -> Edit:
    """Puts the file of another patient in place of the case's own."""

    def edit(case: Path) -> None:
        file_of(case, end).unlink()
        shutil.copy(case.parent / GOOD[0] / f"{GOOD[0]}_{end}.nii.gz", case)

    return edit


def other_voxels(end: str, kind: Any = nib.Nifti1Image) -> Edit:
    """Saves the file in another format under its name."""

    def edit(case: Path) -> None:
        file = file_of(case, end)
        image = nib.load(file)
        voxels = np.asarray(image.dataobj)
        save(file, voxels, image.affine, kind)

    return edit


def colours(array: np.ndarray) -> np.ndarray:
    triple = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    return np.stack([array.astype(np.uint8)] * 3, -1).copy().view(triple)[..., 0]


# ------------------------------------------------------------------------------------------------ livers
def abdomen(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A body in air with a liver and a lesion: Hounsfield units and label numbers."""
    to_middle = distance()
    label = np.select([distance(middle=0.1) < 0.25, to_middle < 0.6], [2, 1], 0).astype(np.uint8)
    hounsfield = np.select([label == 2, label == 1, to_middle < 0.95], [60, 110, 0], -1000)
    return (hounsfield + np.random.default_rng(seed).normal(0, 8, SHAPE)).astype(np.int16), label


def write_liver(root: Path, number: int, affine: np.ndarray = CT_LPS, label: bool = True) -> None:
    volume, tissue = abdomen(number)
    save(root / f"volume-{number}.nii.gz", volume, affine)
    if label:
        save(root / f"segmentation-{number}.nii.gz", tissue, affine)


def livers(*edits: Edit, **kwargs: Any) -> Build:
    """A good case and a volume-9, which is edited."""

    def build(root: Path) -> None:
        write_liver(root, 1)
        write_liver(root, 9, **kwargs)
        for edit in edits:
            edit(root)

    return build


VOLUME, MASK = "volume-9", "segmentation-9"


# ------------------------------------------------------------------------------------------------ DICOM
def write_slice(folder: Path, number: int, pixels: np.ndarray, **changes: Any) -> Path:
    """Writes one slice (x, y) of Hounsfield units; a change of None leaves an element out."""
    tags = Dataset()
    tags.SOPClassUID, tags.SOPInstanceUID, tags.Modality = CTImageStorage, f"1.2.3.{folder.name[-1]}.{number}", "CT"
    tags.StudyInstanceUID, tags.SeriesInstanceUID = f"1.2.{ord(folder.name[-1])}", f"1.2.3.{ord(folder.name[-1])}"
    tags.ImagePositionPatient, tags.ImageOrientationPatient = [-40, -40, 5 * number], [1, 0, 0, 0, 1, 0]
    tags.PixelSpacing, (tags.Columns, tags.Rows) = [8, 8], pixels.shape
    tags.SamplesPerPixel, tags.PhotometricInterpretation = 1, "MONOCHROME2"
    tags.BitsAllocated, tags.BitsStored, tags.HighBit, tags.PixelRepresentation = 16, 16, 15, 0
    tags.RescaleSlope, tags.RescaleIntercept = 1, -1024
    tags.PixelData = np.ascontiguousarray((pixels.clip(-1024) + 1024).T.astype("<u2")).tobytes()
    return save_dicom(changed(tags, changes), folder / f"IM{number:04}.dcm")


def write_series(folder: Path, first: int = 0, **changes: Any) -> None:
    volume, _ = abdomen(seed=folder.name == "P1")
    for number in range(SHAPE[2]):
        write_slice(folder, number + first, volume[..., number], **changes)


def series(*edits: Edit, **changes: Any) -> Build:
    """A good series and another, `P9`, which is edited."""

    def build(root: Path) -> None:
        write_series(root / "P1")
        write_series(root / "P9", **changes)
        for edit in edits:
            edit(root / "P9")

    return build


def slice_with(number: int, **changes: Any) -> Edit:
    def edit(folder: Path) -> None:
        write_slice(folder, number, abdomen()[0][..., number % SHAPE[2]], **changes)

    return edit


def slice_bytes(number: int, change: Callable[[bytes], bytes]) -> Edit:
    def edit(folder: Path) -> None:
        file = folder / f"IM{number:04}.dcm"
        file.write_bytes(change(file.read_bytes()))

    return edit


def every_slice(change: Callable[[int, pydicom.Dataset], None]) -> Edit:
    def edit(folder: Path) -> None:
        for number, file in enumerate(sorted(folder.iterdir())):
            tags = pydicom.dcmread(file)
            change(number, tags)
            tags.save_as(file)

    return edit

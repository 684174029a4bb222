"""Tiny brain data sets in every published layout."""

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

SHAPE = (6, 5, 4)
OLD = ("flair", "t1", "t1ce", "t2")
NEW = ("t2f", "t1n", "t1c", "t2w")


def _write_nifti(path: Path, shape: tuple[int, ...] = SHAPE, shift: float = 0.0, value: int | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    count = int(np.prod(shape))
    voxels = np.arange(count) if value is None else np.full(count, value)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[0, 3] = shift
    nib.save(nib.Nifti1Image(voxels.reshape(shape).astype(np.int16), affine), path)
    return path


def _write_case(
    folder: Path,
    case: str,
    endings: tuple[str, ...] = OLD,
    separator: str = "_",
    suffix: str = ".nii.gz",
    label: str | None = "seg",
) -> Path:
    for ending in endings:
        _write_nifti(folder / f"{case}{separator}{ending}{suffix}")
    if label is not None:
        _write_nifti(folder / f"{case}{separator}{label}{suffix}")
    return folder


@pytest.fixture
def write_nifti() -> Callable[..., Path]:
    return _write_nifti


@pytest.fixture
def write_case() -> Callable[..., Path]:
    return _write_case


@pytest.fixture
def brats2020(tmp_path: Path) -> Path:
    """Three cases; the last is like the published case 355, whose label was named by hand."""
    root = tmp_path / "MICCAI_BraTS2020_TrainingData"
    for number in (1, 2, 355):
        case = f"BraTS20_Training_{number:03}"
        _write_case(root / case, case, suffix=".nii", label="seg" if number < 355 else None)
    _write_nifti(root / "BraTS20_Training_355" / "W39_1998.09.19_Segm.nii")
    (root / "name_mapping.csv").write_text("Grade\n")
    return root


@pytest.fixture
def decathlon(tmp_path: Path) -> Path:
    """Two labelled cases and one without."""
    root = tmp_path / "Task01_BrainTumour"
    for folder, number in (("imagesTr", 1), ("imagesTr", 2), ("imagesTs", 485)):
        _write_nifti(root / folder / f"BRATS_{number:03}.nii.gz", (*SHAPE, 4))
        (root / folder / f"._BRATS_{number:03}.nii.gz").write_bytes(b"macOS")
    for number in (1, 2):
        _write_nifti(root / "labelsTr" / f"BRATS_{number:03}.nii.gz")
    (root / "dataset.json").write_text('{"modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}}')
    return root

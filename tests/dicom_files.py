"""DICOM files for the tests."""

from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian


def changed(tags: Dataset, changes: dict[str, Any]) -> Dataset:
    """Sets elements; a change of None leaves one out."""
    for keyword, value in changes.items():
        if value is None:
            del tags[keyword]
        else:
            setattr(tags, keyword, value)
    return tags


def save_dicom(tags: Dataset, path: Path, syntax: str = ExplicitVRLittleEndian) -> Path:
    """Writes a file, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tags.file_meta = FileMetaDataset()
    tags.file_meta.TransferSyntaxUID = syntax
    tags.save_as(path, enforce_file_format=True)
    return path

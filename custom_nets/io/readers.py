"""Readers of images: NIfTI files and DICOM series, checked, with errors that name case and file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import PathLike
from monai.data import MetaTensor, NibabelReader
from monai.data.image_reader import ImageReader
from monai.transforms import EnsureChannelFirst
from monai.transforms.io.array import switch_endianness
from monai.utils import ImageMetaKey, MetaKeys, SpaceKeys, ensure_tuple

from custom_nets.errors import InputError
from custom_nets.io.dicom import is_dicom_folder, read_dicom
from custom_nets.io.nifti import VolumeHeader, check_same_grid, read_header, read_voxels

FORMS_KEY = "nifti_forms"
"""Entry of the meta data for what the header says of the place of the voxels, see `VolumeHeader`."""

ORIENTATION_KEY = "orientation"
"""Entry of the meta data for what the affine is known from, see `VolumeHeader`."""

CHANNELS_KEY = "described_channels"
"""Entry of the meta data for the channels that a file names itself, separated by commas."""


class CaseReader(NibabelReader):
    """Reads the files of one image; its errors name case and file.

    One reader serves one call: MONAI's readers keep the file names of the last call, so that threads mix them up.
    """

    def __init__(self, case: str, label: bool = False) -> None:
        super().__init__(squeeze_non_spatial_dims=True)
        self.case = case
        self.label = label
        self.headers: list[VolumeHeader] = []
        self.channel: np.ndarray | None = None

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Any:
        # Not MONAI's own `read`: where voxel sizes are rounded it makes another affine.
        self.filenames = ensure_tuple(data)
        self.headers = [read_header(name, self.case) for name in self.filenames]
        check_same_grid(self.case, self.headers)
        images = [nib.load(name, **kwargs) for name in self.filenames]
        return images if len(images) > 1 else images[0]

    def get_data(self, img: Any) -> tuple[np.ndarray, dict]:
        first, shapes = self.headers[0], {header.shape for header in self.headers}
        place = {FORMS_KEY: first.forms, ORIENTATION_KEY: first.orientation}
        if len(self.headers) == 1 or len(shapes) > 1 or len(first.shape) != 3:
            voxels, meta = super().get_data(img)
            return voxels, {**meta, **place, CHANNELS_KEY: ", ".join(first.channels)}
        # One 3D file a channel: unpacked beside each other, each to its place, so that nothing has to be stacked.
        files = self.filenames
        channels = np.empty((len(files), *first.shape), dtype=np.float32)
        with ThreadPoolExecutor(min(len(files), os.cpu_count() or 1)) as pool:
            list(pool.map(lambda file, channel: read_voxels(file, self.case, out=channel), files, channels))
        self.filenames, self.channel = files[:1], channels[0]
        _, meta = super().get_data(img[0])
        self.filenames, self.channel = files, None
        return channels, {**meta, **place, MetaKeys.ORIGINAL_CHANNEL_DIM: 0, CHANNELS_KEY: ""}

    def _get_affine(self, img: Any) -> np.ndarray:
        # In millimetres, and the first file's: `read` allows rounding between files, MONAI's own comparison does not.
        return self.headers[0].affine.copy()

    def _get_array_data(self, img: Any, filename: str) -> np.ndarray:
        if self.channel is not None:
            return self.channel
        scaled = (img.dataobj.slope, img.dataobj.inter) != (1, 0)
        whole = self.label and not scaled and np.can_cast(img.dataobj.dtype, np.int16)
        return read_voxels(filename, self.case, np.int16 if whole else np.float32)


class DicomReader(ImageReader):
    """Reads one DICOM series folder of CT into what `NibabelReader` makes of the same volume as NIfTI.

    MONAI's `ITKReader` takes one of several series, and bridges a gap between slices, without an error.
    """

    def __init__(self, case: str) -> None:
        self.case = case

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        return is_dicom_folder(ensure_tuple(filename)[0])

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> tuple[VolumeHeader, np.ndarray]:
        return read_dicom(ensure_tuple(data)[0], self.case)

    def get_data(self, img: tuple[VolumeHeader, np.ndarray]) -> tuple[np.ndarray, dict]:
        header, voxels = img
        return voxels, {
            MetaKeys.AFFINE: header.affine,
            MetaKeys.ORIGINAL_AFFINE: header.affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.array(header.shape),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan"),
            ORIENTATION_KEY: header.orientation,
        }


def reader_of(files: Sequence[str], case: str, is_label: bool) -> ImageReader:
    """Returns what reads the files of one image, or the folder of one CT series."""
    folders = [file for file in files if Path(file).expanduser().is_dir()]
    if not folders:
        return CaseReader(case, is_label)
    if is_label or len(files) > 1:
        wanted = "a label map is one NIfTI file" if is_label else "a DICOM series is the only channel of its image"
        msg = f"case {case}, folder {folders[0]}: found a folder, but {wanted}; give files"
        raise InputError(msg)
    return DicomReader(case)


def read_volume(files: Sequence[str], reader: ImageReader) -> torch.Tensor:
    """Returns what MONAI's `LoadImage` would, channels first, in the reader's own type.

    That one makes a reader of every sort first, and those of DICOM warn of decoders that nobody asked for.
    """
    names = [os.path.expanduser(file) for file in files]
    voxels, meta = reader.get_data(reader.read(names))
    meta = {**switch_endianness(meta, "<"), ImageMetaKey.FILENAME_OR_OBJ: names[0]}
    return EnsureChannelFirst()(MetaTensor.ensure_torch_and_prune_meta(voxels, meta))

"""Writing NIfTI files whole or not at all, and where their input lies."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import nibabel as nib
import numpy as np
from monai.config import NdarrayOrTensor
from monai.data import NibabelWriter
from monai.data.utils import to_affine_nd
from monai.utils import convert_to_numpy, get_equivalent_dtype

from custom_nets.io.files import atomic_file
from custom_nets.io.orientation import make_header
from custom_nets.io.readers import FORMS_KEY


class WholeNibabelWriter(NibabelWriter):
    """MONAI's writer of NIfTI files, except for what a result needs.

    - A file has its name when it is complete: a job that is stopped, such as by torchrun because another process died,
      leaves no half of a result behind.
    - The header states the place as the input's does (see `make_header`), so that each program that reads them puts one
      on the other. MONAI sets both forms to the affine, also where the input's differ or a qform cannot hold it.
    - A volume of one slice stays a volume.
    """

    forms = ""

    def set_data_array(
        self, data_array: NdarrayOrTensor, channel_dim: int | None = 0, squeeze_end_dims: bool = True, **kwargs: Any
    ) -> None:
        """Takes the voxels, see `monai.data.NibabelWriter`; a single channel is no axis of the file."""
        super().set_data_array(data_array, channel_dim, squeeze_end_dims=False, **kwargs)
        voxels: Any = self.data_obj
        if squeeze_end_dims and voxels.shape[-1] == 1:
            self.data_obj = voxels[..., 0]

    def set_metadata(self, meta_dict: Mapping | None, resample: bool = True, **options: Any) -> None:
        """Takes the place, see `monai.data.NibabelWriter`."""
        super().set_metadata(meta_dict, resample, **options)
        self.forms = str((meta_dict or {}).get(FORMS_KEY) or "")

    def write(self, filename: str | os.PathLike, verbose: bool = False, **kwargs: Any) -> None:
        """Writes the file; `description` among `kwargs` goes into the header's free text, where that has the room."""
        affine = np.eye(4) if self.affine is None else convert_to_numpy(self.affine).astype(np.float64)
        voxels = convert_to_numpy(self.data_obj)
        header = make_header(to_affine_nd(3, affine), self.forms)
        description = str(kwargs.get("description", "")).encode()
        if len(description) < header["descrip"].dtype.itemsize:
            header["descrip"] = description
        dtype = get_equivalent_dtype(self.output_dtype or voxels.dtype, np.ndarray)
        header.set_data_dtype(dtype)
        # Without an affine of its own an image leaves the forms in the header as they are.
        image = nib.Nifti1Image(voxels.astype(dtype, copy=False), None, header)
        with atomic_file(filename) as part:
            nib.save(image, part)

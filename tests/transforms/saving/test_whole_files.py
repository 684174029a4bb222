"""NIfTI files, whole or not at all."""

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import SaveImage

from custom_nets.transforms import WholeNibabelWriter


def save(folder, voxels):
    writer = f"{WholeNibabelWriter.__module__}.{WholeNibabelWriter.__name__}"
    SaveImage(folder, separate_folder=False, resample=False, writer=writer, print_log=False)(voxels)


@pytest.fixture
def voxels():
    tensor = torch.arange(24.0).reshape(1, 2, 3, 4)
    return MetaTensor(tensor, affine=torch.diag(torch.tensor([2.0, 1, 1, 1])), meta={"filename_or_obj": "case.nii.gz"})


def test_a_file_is_what_was_given(tmp_path, voxels):
    save(tmp_path, voxels)
    image = nibabel.load(tmp_path / "case_trans.nii.gz")
    np.testing.assert_array_equal(image.get_fdata(), voxels[0])
    assert image.affine[0, 0] == 2


def test_nothing_else_is_left(tmp_path, voxels):
    save(tmp_path, voxels)
    assert [path.name for path in tmp_path.iterdir()] == ["case_trans.nii.gz"]


def test_an_interrupted_file_has_no_name(tmp_path, voxels, monkeypatch):
    def stop(_image, filename):
        assert "case_trans.nii.gz" in str(filename)
        raise KeyboardInterrupt

    monkeypatch.setattr("nibabel.save", stop)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, voxels)
    assert list(tmp_path.iterdir()) == []

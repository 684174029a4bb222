"""ResampleSpacingd."""

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Invertd, Spacingd

from custom_nets.errors import InputError
from custom_nets.transforms import ResampleSpacingd


def an_item():
    affine = torch.diag(torch.tensor([1.0, 2.0, 3.0, 1.0]))
    image = MetaTensor(torch.rand(1, 12, 10, 8), affine=affine, meta={"filename_or_obj": "scan.nii.gz"})
    label = MetaTensor((torch.rand(1, 12, 10, 8) > 0.5).float(), affine=affine)
    return {"image": image, "label": label, "image_path": "scan.nii.gz"}


def test_entries_named_like_the_image_are_left_alone():
    with pytest.raises(AttributeError):  # the defect of MONAI that this class is for: no longer needed once this fails
        Spacingd("image", pixdim=1.0)(an_item())
    assert ResampleSpacingd("image", pixdim=1.0)(an_item())["image_path"] == "scan.nii.gz"


def test_images_and_labels_are_those_of_monai():
    keys = {"keys": ["image", "label"], "pixdim": [1.5, 1.5, 1.5], "mode": ["bilinear", "nearest"]}
    item = an_item()
    expected = Spacingd(**keys)({key: item[key] for key in ("image", "label")})
    ours = ResampleSpacingd(**keys)(item)
    for key in ("image", "label"):
        assert torch.equal(ours[key], expected[key])
        assert torch.equal(ours[key].affine, expected[key].affine)


def test_it_can_be_inverted():
    resample = ResampleSpacingd("image", pixdim=1.0)
    item = resample(an_item())
    item["pred"] = item["image"].clone()
    back = Invertd("pred", resample, orig_keys="image", nearest_interp=False)(item)["pred"]
    assert back.shape == (1, 12, 10, 8)
    torch.testing.assert_close(back.affine, an_item()["image"].affine, check_dtype=False)


def test_a_missing_key_may_be_allowed():
    item = an_item()
    del item["label"]
    assert "label" not in ResampleSpacingd(["image", "label"], pixdim=1.0, allow_missing_keys=True)(item)


def test_more_than_the_memory_is_refused_before():
    image = MetaTensor(torch.zeros(1, 8, 8, 8), affine=torch.diag(torch.tensor([8000.0, 8000.0, 8000.0, 1.0])))
    with pytest.raises(
        InputError, match="case A: 'image' has a spacing of 8000 x 8000 x 8000 mm; resampled it would be"
    ):
        ResampleSpacingd("image", pixdim=1.0)({"image": image, "case": "A"})


def test_memory_counts_what_the_result_takes(monkeypatch):
    image = MetaTensor(torch.zeros(2, 8, 8, 8), affine=torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0])))
    needed = 2 * 16**3 * 4
    monkeypatch.setattr("custom_nets.transforms.spacing.physical_memory", lambda: needed)
    assert "image" in ResampleSpacingd("image", pixdim=[1.0] * 3)({"image": image})
    monkeypatch.setattr("custom_nets.transforms.spacing.physical_memory", lambda: needed - 1)
    with pytest.raises(InputError, match="16 x 16 x 16 voxels"):
        ResampleSpacingd("image", pixdim=[1.0] * 3)({"image": image})

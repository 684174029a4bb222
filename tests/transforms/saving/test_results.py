"""Result files of a CT case, as the bundle asks for them."""

import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import SaveImaged

from custom_nets.errors import InputError
from custom_nets.transforms.intensity.hounsfield import WindowHounsfield, to_intensities
from custom_nets.transforms.loading import LoadCased
from custom_nets.transforms.regions import RegionsToLabelsd
from custom_nets.transforms.saving.meshes import MeshSettings
from custom_nets.transforms.saving.overlay import OverlaySettings
from custom_nets.transforms.saving.results import SaveMapsd, SaveResultsd

CT = {
    "regions": ("liver", "tumour"),
    "meshes": MeshSettings(),
    "overlay": OverlaySettings(["CT"], window=[-200, 250], focus="tumour"),
    "parts": ("tumour",),
}
WINDOW = CT["overlay"].window


@pytest.fixture
def ct_case(tmp_path):
    """A CT on the disk as it is read, and two livers with tumours predicted."""
    affine = np.diag([-1.5, -1.5, 2.0, 1])
    intensities = np.full((24, 20, 16), -1000, dtype=np.int16)
    intensities[4:20, 4:16] = 60
    file = tmp_path / "volume-7.nii.gz"
    nibabel.save(nibabel.Nifti1Image(intensities, affine), file)
    item = LoadCased("image")({"image": str(file), "case": "volume-7"})
    regions = torch.zeros(2, 24, 20, 16, dtype=torch.float16)
    regions[0, 6:14, 6:14, 4:12] = 0.9
    regions[1, 7:9, 7:9, 5:7] = regions[1, 12, 12, 10] = 0.8
    item["pred"] = MetaTensor(regions, affine=item["image"].affine)
    return item


def test_the_files_of_a_ct_case(ct_case, tmp_path):
    pytest.importorskip("matplotlib")
    SaveResultsd(tmp_path / "out", **CT)(ct_case)
    names = [f"volume-7_{name}" for name in ("liver.obj", "overlay.png", "tumour.obj", "volumes.json")]
    assert sorted(file.name for file in (tmp_path / "out" / "volume-7").iterdir()) == ["regions.mtl", *names]


def test_tumours_are_counted_and_measured(ct_case, tmp_path):
    SaveResultsd(tmp_path, **{**CT, "meshes": None, "overlay": None})(ct_case)
    tumour = json.loads((tmp_path / "volume-7" / "volume-7_volumes.json").read_text())["regions"]["tumour"]
    assert tumour["components"] == 2
    assert [part["ml"] for part in tumour["parts"]] == [0.036, 0.0045]


def test_the_image_read_again_for_the_picture_is_let_go(ct_case, tmp_path):
    pytest.importorskip("matplotlib")
    assert set(SaveResultsd(tmp_path, **{**CT, "meshes": None})(ct_case)) == set(ct_case)


def test_the_picture_of_a_windowed_image_is_that_of_its_file(ct_case, tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    pytest.importorskip("matplotlib")
    windowed = {**ct_case, "image": WindowHounsfield(WINDOW)(ct_case["image"])}
    picture = replace(CT["overlay"], window=to_intensities(WINDOW, WINDOW), reread=False)
    intensities = {**CT, "overlay": picture}
    SaveResultsd(tmp_path / "files", **{**CT, "meshes": None})(ct_case)
    SaveResultsd(tmp_path / "item", **{**intensities, "meshes": None})(windowed)
    name = "volume-7/volume-7_overlay.png"
    pictures = [np.asarray(image_module.open(tmp_path / folder / name)) for folder in ("files", "item")]
    np.testing.assert_array_equal(*pictures)


@pytest.mark.parametrize("wrong", [{"overlay": OverlaySettings(["CT"], focus="lesion")}, {"parts": ("lesion",)}])
def test_an_unknown_region_is_an_error_before_the_first_case(wrong, tmp_path):
    with pytest.raises(InputError, match="'lesion' is unknown"):
        SaveResultsd(tmp_path, **{**CT, **wrong})


def test_programs_that_write_themselves_can_tell_what_writes(tmp_path):
    """MONAI Label leaves out every SaveImaged of a bundle's postprocessing."""
    assert isinstance(SaveResultsd(tmp_path, **CT), SaveImaged)


def test_the_label_map_is_written_before_all_else(ct_case, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("custom_nets.transforms.saving.meshes.write_mesh", fail)
    ct_case["pred"].meta["case"] = "volume-7"
    label = [RegionsToLabelsd("pred", "lits", CT["regions"]), SaveMapsd("pred", tmp_path, "prediction")]
    with pytest.raises(RuntimeError):
        SaveResultsd(tmp_path, **CT, first=label)(ct_case)
    image = nibabel.load(tmp_path / "volume-7" / "volume-7_prediction.nii.gz")
    assert set(np.unique(image.dataobj)) == {0, 1, 2}
    assert len(ct_case["pred"]) == 2

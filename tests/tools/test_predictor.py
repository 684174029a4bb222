"""Bundles in Python: what goes in, and that what comes out is what the bundle's own inference writes."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

import custom_nets
from custom_nets.datasets import datalist
from custom_nets.errors import InputError
from custom_nets.inferers import OccupancyInferer
from custom_nets.io.meshes import write_mesh
from custom_nets.networks import PyramidOSSNet
from custom_nets.tools import write_abdomen_phantoms, write_brain_phantoms
from tests.bundles.bundle import SMALLEST, Bundle
from tests.tools.conftest import copy_bundle

NAMES = list(SMALLEST)
CHANNELS = ("FLAIR", "T1", "T1ce", "T2")


@pytest.fixture(scope="module")
def brains(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("brains")
    write_brain_phantoms(folder, 2, (40, 40, 28), seed=5, progress=False)
    return folder


@pytest.fixture(scope="module")
def livers(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("livers")
    write_abdomen_phantoms(folder, 1, spacing=8.0, progress=False)
    return folder


@pytest.fixture(scope="module")
def files(brains) -> list[str]:
    return datalist(brains)[0]["image"]


@pytest.fixture(scope="module")
def images(files) -> list[nibabel.Nifti1Image]:
    return [nibabel.load(file) for file in files]


def keys_of(name: str) -> dict:
    training = ("num_points", "batch_size")
    return {key: value for key, value in SMALLEST[name].items() if key not in training} | {"device": "cpu"}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {name: copy_bundle(name, folder, keys_of(name)) for name in NAMES}


@pytest.fixture(scope="module")
def segment(bundles) -> custom_nets.Predictor:
    return custom_nets.Predictor(bundles["ossnet_brats"], device="cpu")


@pytest.fixture(scope="module")
def expected(segment, files) -> custom_nets.Segmentation:
    return segment(files)


@pytest.mark.parametrize("name", NAMES)
def test_results_are_those_of_the_bundle_voxel_for_voxel(name, bundles, brains, livers, tmp_path):
    data = livers / "volume-0.nii.gz" if "lits" in name else brains / "BraTS20_Training_002"
    bundle = Bundle(name)
    bundle.folder = bundles[name]
    places = {"dataset_dir": str(data), "output_dir": str(tmp_path), "num_workers": 0, "save_overlay": False}
    bundle.run("inferring", "inference", **places, save_probabilities=True)
    found = custom_nets.infer(data, bundles[name], device="cpu", save_probabilities=True)
    folder = tmp_path / found.case
    written = nibabel.load(folder / f"{found.case}_prediction.nii.gz")
    np.testing.assert_array_equal(found.labels, np.asarray(written.dataobj))
    assert len(np.unique(found.labels)) > 1
    np.testing.assert_array_equal(found.to_nibabel().affine, written.affine)
    assert found.to_nibabel().header.binaryblock == written.header.binaryblock
    probabilities = np.asarray(nibabel.load(folder / f"{found.case}_probabilities.nii.gz").dataobj)
    np.testing.assert_array_equal(np.moveaxis(found.probabilities, 0, -1), probabilities)
    volumes = json.loads((folder / f"{found.case}_volumes.json").read_text())["regions"]
    assert found.volumes_ml == {region: volumes[region]["ml"] for region in found.regions}
    for region, mesh in found.meshes().items():
        write_mesh(tmp_path / "mesh.obj", *mesh)
        ours = [line for line in (tmp_path / "mesh.obj").read_text().splitlines() if line[:2] in ("v ", "f ")]
        theirs = (folder / f"{found.case}_{region}.obj").read_text().splitlines()
        assert ours == [line for line in theirs if line[:2] in ("v ", "f ")]


def as_arrays(images, kind):
    return kind(np.stack([image.get_fdata(dtype=np.float32) for image in images]))


def of_simple_itk(images):
    sitk = pytest.importorskip("SimpleITK")
    return [sitk.ReadImage(image.get_filename()) for image in images]


def of_itk(images):
    itk = pytest.importorskip("itk")
    return [itk.imread(image.get_filename(), itk.F) for image in images]


WAYS = {
    "files in another order": lambda images: [image.get_filename() for image in images][::-1],
    "files by name": lambda images: {name: image.get_filename() for name, image in zip(CHANNELS, images, strict=True)},
    "images of nibabel": lambda images: images,
    "one 4D image of nibabel": lambda images: nibabel.concat_images(images),
    "images by name": lambda images: dict(zip(CHANNELS[::-1], images[::-1], strict=True)),
    "array": lambda images: as_arrays(images, np.asarray),
    "tensor": lambda images: as_arrays(images, torch.as_tensor),
    "MetaTensor": lambda images: MetaTensor(as_arrays(images, torch.as_tensor), affine=images[0].affine),
    "SimpleITK": of_simple_itk,
    "itk": of_itk,
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_in_gives_the_same(way, segment, expected, images):
    image = WAYS[way](images)
    found = segment(image, affine=images[0].affine if way in ("array", "tensor") else None)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-5)
    assert found.volumes_ml == pytest.approx(expected.volumes_ml, rel=1e-5)


def test_masks_and_labels_agree(expected):
    assert expected.masks["WT"].sum() == (expected.labels > 0).sum()
    assert set(expected.label_numbers) == {"WT", "TC", "ET"}
    assert "probabilities" not in repr(expected)


def test_one_channel_needs_no_axis(bundles, livers):
    segment = custom_nets.Predictor(bundles["ossnet_lits"], device="cpu")
    image = nibabel.load(livers / "volume-0.nii.gz")
    expected = segment(livers / "volume-0.nii.gz")
    np.testing.assert_array_equal(segment(image).labels, expected.labels)
    np.testing.assert_array_equal(segment(image.get_fdata(), image.affine).labels, expected.labels)


@pytest.mark.parametrize(
    ("image", "affine", "message"),
    [
        (np.zeros((4, 8, 8, 8)), None, "an array does not know its place; give affine"),
        (np.zeros((3, 8, 8, 8)), np.eye(4), "3 channels, expected 4 \\(FLAIR, T1, T1ce, T2\\)"),
        (np.zeros((4, 8, 8, 8)), np.zeros((4, 4)), "singular or not finite"),
        (np.full((4, 8, 8, 8), np.nan), np.eye(4), "case image.*NaN"),
        (3, None, "is a int; expected a path, several paths, an image of nibabel"),
        ({"FLAIR": 1}, None, "has FLAIR; expected FLAIR, T1, T1ce, T2"),
        ([np.zeros((8, 8, 8))] * 3, np.eye(4), "3 images of 1, 1, 1 channels; expected one of one channel for each"),
        ([np.zeros((8, 8, 8))] * 3 + [np.zeros((8, 8, 9))], np.eye(4), "T2 lies on another grid than FLAIR"),
        ("nowhere", None, "there is no such folder"),
    ],
)
def test_what_does_not_fit_is_named(image, affine, message, segment, expected, files):
    with pytest.raises(InputError, match=message):
        segment(image, affine=affine)
    np.testing.assert_array_equal(segment(files).labels, expected.labels)  # and does no harm to the next


def test_several_cases_are_named(segment, brains):
    with pytest.raises(InputError, match="2 cases \\(BraTS20_Training_001, BraTS20_Training_002\\); expected one"):
        segment(brains)


def test_keys_of_files_are_refused(bundles):
    with pytest.raises(InputError, match="output_dir has no effect on a result in memory"):
        custom_nets.Predictor(bundles["ossnet_brats"], output_dir="out")
    with pytest.raises(InputError, match="unknown key 'mirror_axis'; did you mean mirror_axes"):
        custom_nets.Predictor(bundles["ossnet_brats"], mirror_axis=[0])


def test_uncertainty_comes_along(bundles, files):
    keys = {"save_uncertainty": True, "mirror_axes": [0], "inferer_mode": "dense", "device": "cpu"}
    found = custom_nets.infer(files, bundles["ossnet_brats"], **keys)
    assert found.uncertainty.shape == found.probabilities.shape
    assert found.uncertainty.max() > 0


def test_a_network_in_place_of_the_settings_is_named_by_its_class():
    with pytest.raises(InputError) as raised:
        OccupancyInferer(PyramidOSSNet(1, 1, channels=(8, 8), hidden_features=8))
    assert len(str(raised.value)) < 200
    assert "got the network PyramidOSSNet" in str(raised.value)
    assert "OccupancyInferer()(image, network)" in str(raised.value)

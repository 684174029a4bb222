"""Studies for MONAI Label: phantoms as one file each, also on turned, flipped, oblique and anisotropic grids."""

import os
from pathlib import Path

import nibabel
import numpy as np
import pytest

from custom_nets.datasets import datalist
from custom_nets.tools import fetch_bundle, pack_bundle, stack_case, write_abdomen_phantoms, write_brain_phantoms
from custom_nets.tools.planning.new_bundle import new_bundle
from tests.conftest import REPOSITORY
from tests.label.server import Server
from tests.tools.conftest import copy_bundle

SMALL = {
    "nvnet_brats": {"crop_size": [32, 32, 16], "init_filters": 8, "latent_size": 8},
    "ossnet_brats": {"image_size": [32, 32, 24], "channels": [8, 8], "hidden_features": 16, "num_points": 512},
    "ossnet_lits": {"spacing": 8.0, "downsampling": 1, "channels": [8, 8, 8], "hidden_features": 16, "num_points": 64},
    "planned_brains": {"channels": [8, 8], "depths": [1, 1], "hidden_features": 16, "num_points": 512},
}
BRAINS, LIVERS = ["nvnet_brats", "ossnet_brats", "planned_brains"], ["ossnet_lits"]


def grids(image: nibabel.Nifti1Image) -> dict[str, nibabel.Nifti1Image]:
    """The same voxels in other orders of storage, and on grids that lie otherwise in the patient."""
    turned = image.as_reoriented(np.array([[2, 1], [0, -1], [1, 1]]))
    flipped = image.as_reoriented(np.array([[0, -1], [1, -1], [2, 1]]))
    data, affine = np.asarray(image.dataobj), image.affine
    angle = np.deg2rad(12)
    rotation = np.eye(4)
    rotation[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    oblique = nibabel.Nifti1Image(data, rotation @ affine)
    thick = nibabel.Nifti1Image(data, affine @ np.diag([1, 1, 3, 1]))
    return {"plain": image, "turned": turned, "flipped": flipped, "oblique": oblique, "thick": thick}


def fetch_small(names: list[str], folder: Path) -> Path:
    """Bundles with small networks, one of them planned for the data at hand, packed and fetched as by a user."""
    for name in names:
        place = REPOSITORY / "bundles"
        if name == "planned_brains":
            place = folder / "planned"
            new_bundle(place / name, folder / "data")
        keys = {**SMALL[name], "num_workers": 0, "val_interval": 1}
        bundle = copy_bundle(name, folder / "source", keys, place)
        pack_bundle(bundle, folder / "release")
        fetch_bundle(name, str(folder / "release"), folder / "bundles", progress=False)
    return folder / "bundles"


@pytest.fixture(scope="session")
def commands() -> Path:
    if "MONAI_LABEL" not in os.environ:
        pytest.skip("needs an environment with MONAI Label: make test-label")
    return Path(os.environ["MONAI_LABEL"]).resolve()


@pytest.fixture(scope="session")
def brain_server(commands, tmp_path_factory):
    folder = tmp_path_factory.mktemp("brain")
    write_brain_phantoms(folder / "data", 2, (32, 32, 24), seed=2, progress=False)
    items = datalist(folder / "data")
    (folder / "studies").mkdir()
    (folder / "labels").mkdir()
    for item in items:
        stack_case(item["image"], folder / "studies" / f"{item['case']}.nii.gz")
        nibabel.save(nibabel.load(item["label"]), folder / "labels" / f"{item['case']}.nii.gz")
    for name, image in grids(nibabel.load(folder / "studies" / f"{items[0]['case']}.nii.gz")).items():
        nibabel.save(image, folder / "studies" / f"{name}.nii.gz")
    with Server(commands, folder, BRAINS, fetch_small(BRAINS, folder), folder / "studies") as server:
        yield server


@pytest.fixture(scope="session")
def liver_server(commands, tmp_path_factory):
    folder = tmp_path_factory.mktemp("liver")
    write_abdomen_phantoms(folder / "data", 2, spacing=8.0, progress=False)
    (folder / "studies").mkdir()
    (folder / "labels").mkdir()
    for volume in sorted((folder / "data").rglob("volume-*.nii*")):
        label = volume.with_name(volume.name.replace("volume", "segmentation"))
        name = volume.name.split(".")[0]
        nibabel.save(nibabel.load(volume), folder / "studies" / f"{name}.nii.gz")
        nibabel.save(nibabel.load(label), folder / "labels" / f"{name}.nii.gz")
    first = sorted((folder / "studies").iterdir())[0]
    for name, image in grids(nibabel.load(first)).items():
        nibabel.save(image, folder / "studies" / f"{name}.nii.gz")
    with Server(commands, folder, LIVERS, fetch_small(LIVERS, folder), folder / "studies") as server:
        yield server


@pytest.fixture
def server(request, model) -> Server:
    """The server that has a model."""
    return request.getfixturevalue("brain_server" if model in BRAINS else "liver_server")

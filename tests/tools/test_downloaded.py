"""Downloaded bundles run where this package is not installed, from their own folder and from anywhere."""

import os
import subprocess
import sysconfig
import venv
from pathlib import Path

import nibabel
import numpy as np
import pytest

from custom_nets.tools import fetch_bundle, write_abdomen_phantoms, write_brain_phantoms
from tests.tools.conftest import NAMES

SMALL = {
    "nvnet_brats": {"crop_size": [16, 16, 16]},
    "ossnet_brats": {"image_size": [32, 32, 24]},
    "ossnet_lits": {"spacing": 8.0},
}
"""Keys for small images; the networks are as they were packed."""

LOAD = """
import sys, monai.bundle, custom_nets_absent
for name in {names}:
    network = monai.bundle.load(name, bundle_dir={folder!r}, workflow_type="inference", device="cpu")
    workflow = monai.bundle.create_workflow(
        config_file=f"{folder}/{{name}}/configs/inference.json", workflow_type="inference", device="cpu",
        dataset_dir={folder!r} + "/data/" + name, output_dir={folder!r} + "/out/" + name, num_workers=0,
        save_meshes=False, save_overlay=False, **{small}[name])
    assert type(workflow.network_def) is type(network)
    assert workflow.bundle_root == f"{folder}/{{name}}"
    workflow.run()
import custom_nets
assert custom_nets.__file__.startswith({folder!r}), custom_nets.__file__
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> str:
    """An interpreter that has every installed package but this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    # A path in a .pth file is searched, but the .pth files there, as an editable installation has one, are not read.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    (packages / "custom_nets_absent.py").write_text(
        "import importlib.util\nassert importlib.util.find_spec('custom_nets') is None\n"
    )
    return str(folder / "bin" / "python")


@pytest.fixture(scope="module")
def downloaded(release, tmp_path_factory) -> Path:
    """A folder with all bundles, as fetched, and a small case for each."""
    folder = tmp_path_factory.mktemp("downloaded")
    for name in NAMES:
        fetch_bundle(name, str(release), folder, progress=False)
        if name == "ossnet_lits":
            write_abdomen_phantoms(folder / "data" / name, 1, spacing=12.0, progress=False)
        else:
            write_brain_phantoms(folder / "data" / name, 1, (32, 32, 24), progress=False)
    return folder


def run(python: str, cwd: Path, *arguments: str) -> None:
    environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [python, "-W", "ignore", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr


def check_results(folder: Path, data: Path) -> None:
    (result,) = folder.glob("*/*_prediction.nii.gz")
    source = nibabel.load(next(data.rglob("*.nii.gz")))
    assert nibabel.load(result).shape == source.shape[:3]
    np.testing.assert_allclose(nibabel.load(result).affine, source.affine)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_infers_from_its_own_folder(python, downloaded, tmp_path, name):
    keys = {**SMALL[name], "dataset_dir": downloaded / "data" / name, "output_dir": tmp_path, "num_workers": 0}
    keys |= {"save_meshes": False, "save_overlay": False, "device": "cpu"}
    options = [f"--{key}={value}" for key, value in keys.items()]
    run(python, downloaded / name, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json", *options)
    check_results(tmp_path, downloaded / "data" / name)


@pytest.mark.slow
def test_they_infer_through_monais_functions_from_anywhere(python, downloaded, tmp_path):
    script = LOAD.format(names=NAMES, folder=str(downloaded), small=SMALL)
    run(python, tmp_path, "-c", script)
    for name in NAMES:
        check_results(downloaded / "out" / name, downloaded / "data" / name)

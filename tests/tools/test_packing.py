"""Packing a bundle: what is in the zip, that it is always the same, and what is refused."""

import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import torch

from custom_nets.errors import InputError
from custom_nets.tools import pack_bundle
from custom_nets.tools.bundle_checks import bundle_faults
from tests.conftest import REPOSITORY
from tests.test_imports import MODULES, imports, room_of
from tests.tools.conftest import NAMES, copy_bundle


def change_metadata(bundle: Path, **changes) -> None:
    file = bundle / "configs" / "metadata.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize("name", NAMES)
def test_the_bundles_of_this_repository_have_no_fault(name):
    assert bundle_faults(REPOSITORY / "bundles" / name, untrained=True) == []


def test_packing_twice_gives_the_same_bytes(bundle, tmp_path):
    first = pack_bundle(bundle, tmp_path / "a")
    for file in bundle.rglob("*"):
        os.utime(file, (1, 1))
    (bundle / "docs" / "README.md").chmod(0o600)
    assert first.read_bytes() == pack_bundle(bundle, tmp_path / "b").read_bytes()


def test_the_zip_holds_one_folder_with_what_is_needed_to_run(bundle, tmp_path):
    (bundle / "results").mkdir()
    (bundle / "results" / "patient.nii.gz").write_bytes(b"not for others")
    (bundle / "models" / "checkpoint_last.pt").write_bytes(b"not needed")
    with zipfile.ZipFile(pack_bundle(bundle, tmp_path)) as archive:
        names = set(archive.namelist())
    assert {name.split("/")[0] for name in names} == {"ossnet_brats"}
    inside = {name.removeprefix("ossnet_brats/") for name in names}
    assert {
        "models/model.pt",
        "configs/inference.json",
        "docs/README.md",
        "LICENSE",
        "custom_nets/networks/pyramid/network.py",
    } <= inside
    assert not {name for name in inside if name.startswith("results") or "pycache" in name}
    assert "models/checkpoint_last.pt" not in inside


def test_what_only_a_person_uses_is_not_packed(bundle, tmp_path):
    """Commands, phantoms, conversion, packing: a quarter of the code."""
    with zipfile.ZipFile(pack_bundle(bundle, tmp_path)) as archive:
        inside = {name.removeprefix("ossnet_brats/") for name in archive.namelist()}
    code = {file.relative_to(REPOSITORY).as_posix() for file in (REPOSITORY / "custom_nets").rglob("*.py")}
    left_out = {name for name in code if name.startswith("custom_nets/tools/")} | {"custom_nets/__main__.py"}
    assert {name for name in inside if name.endswith(".py")} == code - left_out
    assert not {name for name in inside if "tools" in name.split("/")}


@pytest.mark.parametrize("name", NAMES)
def test_every_package_that_packed_code_imports_is_listed(name):
    """But for what single keys and files need: DICOM, bias correction, .seg.nrrd, fewer triangles, a faster gzip."""
    metadata = json.loads((REPOSITORY / "bundles" / name / "configs" / "metadata.json").read_text())
    listed = {"monai", "torch", "numpy", *metadata["required_packages_version"]}
    code = [path for path in MODULES if room_of(path) not in ("tools", "__main__")]
    optional = re.findall(r'optional_import\(\s*"(\w+)', "".join(path.read_text() for path in code))
    found = {name.split(".")[0] for path in code for name in imports(path)} | set(optional)
    packages = packages_distributions()
    single = {"itk", "pydicom", "highdicom", "nrrd", "fast_simplification", "isal"}
    others = found - set(sys.stdlib_module_names) - {"custom_nets", "triton"} - single  # triton comes with PyTorch
    needed = {packages[package][0] for package in others}
    assert {"nibabel", "PyYAML", "tqdm"} <= needed
    assert needed - listed == set()


def test_checksums_fit_the_unpacked_bundle(bundle, tmp_path):
    with zipfile.ZipFile(pack_bundle(bundle, tmp_path)) as archive:
        archive.extractall(tmp_path)
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path / "ossnet_brats", check=False
    )
    assert done.returncode == 0


def test_the_table_of_contents_has_every_bundle_and_both_hashes(release):
    table = json.loads((release / "models" / "model_info.json").read_text())
    assert sorted(table) == [f"{name}_v0.1.0" for name in NAMES]
    for entry, facts in table.items():
        data = (release / f"{entry}.zip").read_bytes()
        assert facts["checksum"] == hashlib.sha1(data).hexdigest()
        assert facts["sha256"] == hashlib.sha256(data).hexdigest()
        assert facts["source"] == f"{entry}.zip"


def test_the_table_names_the_address_of_the_zip(bundle, tmp_path):
    pack_bundle(bundle, tmp_path, url="https://example.org/v1/")
    table = json.loads((tmp_path / "models" / "model_info.json").read_text())
    assert table["ossnet_brats_v0.1.0"]["source"] == "https://example.org/v1/ossnet_brats_v0.1.0.zip"


def test_a_bundle_without_weights_is_packed_only_when_said_so(bundle, tmp_path):
    (bundle / "models" / "model.pt").unlink()
    with pytest.raises(InputError, match=r"models/model\.pt: missing; .*--untrained"):
        pack_bundle(bundle, tmp_path)
    assert not list(tmp_path.glob("*.zip"))
    assert pack_bundle(bundle, tmp_path, untrained=True).is_file()


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"version": "0.2.0"}, r"version 0\.2\.0 is not in the changelog"),
        ({"monai_version": "1.0.0"}, r"names monai 1\.0\.0, here it is"),
        ({"required_packages_version": {"no-such-package": "1.0"}}, "no-such-package 1.0, here it is not installed"),
        ({"network_data_format": {}}, "has no network_data_format#inputs#image"),
    ],
)
def test_faults_of_the_metadata_are_named(bundle, changes, fault):
    change_metadata(bundle, **changes)
    assert [line for line in bundle_faults(bundle) if re.search(fault, line)]


def test_channels_that_disagree_are_named_with_both_numbers(bundle):
    formats = json.loads((bundle / "configs" / "metadata.json").read_text())["network_data_format"]
    formats["inputs"]["image"]["num_channels"] = 3
    formats["outputs"]["pred"]["channel_def"].pop("2")
    change_metadata(bundle, network_data_format=formats)
    faults = "\n".join(bundle_faults(bundle))
    assert "network_def#in_channels is 4, but configs/metadata.json has 3 (inputs#image#num_channels)" in faults
    assert "network_def#num_regions is 3, but configs/metadata.json has 2 (outputs#pred#channel_def)" in faults


def test_regions_that_disagree_are_named(bundle):
    file = bundle / "configs" / "train.json"
    file.write_text(file.read_text().replace('"regions": ["WT", "TC", "ET"]', '"regions": ["WT", "TC", "XX"]'))
    assert "regions differ" in "\n".join(bundle_faults(bundle))


def test_all_missing_files_and_links_out_of_the_bundle_are_named_at_once(bundle):
    (bundle / "docs" / "data_license.txt").unlink()
    (bundle / "configs" / "evaluate.json").unlink()
    (bundle / "docs" / "README.md").write_text("[out](../../secret.md) [in](../LICENSE) [web](https://example.org)")
    faults = "\n".join(bundle_faults(bundle))
    assert "docs/data_license.txt: missing" in faults
    assert "configs/evaluate.json: missing" in faults
    assert "../../secret.md leads out" in faults
    assert faults.count("docs/README.md") == 1


def test_an_id_that_monai_requires_is_missed(bundle):
    file = bundle / "configs" / "inference.json"
    config = json.loads(file.read_text())
    del config["evaluator"]
    file.write_text(json.dumps(config))
    assert "configs/inference.json: the id 'evaluator' is missing" in bundle_faults(bundle)


def test_weights_of_another_network_are_refused(bundle):
    torch.save({"other": torch.zeros(1)}, bundle / "models" / "model.pt")
    assert "does not fit the network" in "\n".join(bundle_faults(bundle))


def test_a_folder_that_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected the folder of a bundle"):
        pack_bundle(tmp_path, tmp_path)


def test_copies_have_no_fault(tmp_path):
    assert bundle_faults(copy_bundle("nvnet_brats", tmp_path)) == []

"""Bundles with (untrained) weights, and a release of them, for the tests of packaging."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from custom_nets.tools import pack_bundle
from tests.conftest import REPOSITORY

NAMES = ("nvnet_brats", "ossnet_brats", "ossnet_lits")


def copy_bundle(name: str, folder: Path, keys: dict | None = None, bundles: Path = REPOSITORY / "bundles") -> Path:
    """Copies what git has of a bundle, sets keys in its configs, and gives it weights as the network starts with."""
    bundle = folder / name
    for part in ("configs", "docs", "LICENSE"):
        source = bundles / name / part
        if source.is_dir():
            shutil.copytree(source, bundle / part)
        else:
            shutil.copy2(source, bundle / part)
    for file in (bundle / "configs").glob("*.json") if keys else ():
        config = json.loads(file.read_text())
        file.write_text(json.dumps({**config, **{key: value for key, value in keys.items() if key in config}}))
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    torch.manual_seed(0)
    (bundle / "models").mkdir()
    torch.save(parser.get_parsed_content("network_def").state_dict(), bundle / "models" / "model.pt")
    return bundle


@pytest.fixture
def bundle(tmp_path) -> Path:
    return copy_bundle("ossnet_brats", tmp_path / "source")


@pytest.fixture(scope="session")
def release(tmp_path_factory) -> Path:
    """A folder with all bundles, as `custom-nets pack` leaves it."""
    folder = tmp_path_factory.mktemp("release")
    for name in NAMES:
        pack_bundle(copy_bundle(name, folder / "source"), folder / "dist")
    return folder / "dist"

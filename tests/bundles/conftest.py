"""Fixtures that the tests of the bundles share."""

from pathlib import Path

import pytest

from custom_nets.tools import write_abdomen_phantoms


@pytest.fixture(scope="session")
def abdomen_phantoms(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("abdomen_phantoms")
    write_abdomen_phantoms(folder, 4, spacing=8.0, progress=False)
    return folder


@pytest.fixture(scope="session")
def data_of(phantoms, abdomen_phantoms) -> dict[str, Path]:
    return {"ossnet_brats": phantoms, "ossnet_lits": abdomen_phantoms, "nvnet_brats": phantoms}

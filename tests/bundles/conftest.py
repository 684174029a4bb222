"""Fixtures that the tests of the brain bundles share."""

from pathlib import Path

import pytest

from custom_nets.data import write_brain_phantoms


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    write_brain_phantoms(folder, 4, (40, 40, 28), seed=5, progress=False)
    return folder

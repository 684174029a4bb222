"""Small data sets for the tests of robustness."""

from pathlib import Path

import pytest

from custom_nets.tools import write_abdomen_phantoms, write_brain_phantoms


@pytest.fixture(scope="session")
def small_data_of(tmp_path_factory) -> dict[str, Path]:
    brains, livers = tmp_path_factory.mktemp("brains"), tmp_path_factory.mktemp("livers")
    write_brain_phantoms(brains, 3, (32, 32, 24), seed=5, progress=False)
    write_abdomen_phantoms(livers, 3, spacing=12.0, progress=False)
    return {"ossnet_brats": brains, "ossnet_lits": livers, "nvnet_brats": brains}

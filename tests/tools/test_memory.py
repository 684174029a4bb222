"""The memory of a bundle's inference."""

import pytest

from custom_nets.tools import estimate_bundle_memory
from tests.conftest import REPOSITORY


def test_of_a_convolutional_network_all_of_it_counts():
    """Its encoder alone has an `encode` too, which tells less."""
    parts = estimate_bundle_memory(str(REPOSITORY / "bundles" / "nvnet_brats"), (32, 32, 32), "cpu")
    assert parts["result"] == pytest.approx(3 * 32**3 * 4 / 2**30)


@pytest.mark.parametrize(("configs", "size"), [((), 2), (("paper",), 4)], ids=["default", "paper"])
def test_a_windowed_scan_stays_in_half_precision(configs, size):
    """The published set-up reads Hounsfield units as they are."""
    parts = estimate_bundle_memory(str(REPOSITORY / "bundles" / "ossnet_lits"), (64, 64, 32), "cpu", configs)
    assert parts["image"] == pytest.approx(64 * 64 * 32 * size / 2**30)

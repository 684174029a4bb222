"""The memory of a bundle's inference."""

import pytest

from custom_nets.tools import estimate_bundle_memory
from tests.conftest import REPOSITORY


def test_of_a_convolutional_network_all_of_it_counts():
    """Its encoder alone has an `encode` too, which tells less."""
    parts = estimate_bundle_memory(str(REPOSITORY / "bundles" / "nvnet_brats"), (32, 32, 32), "cpu")
    assert parts["result"] == pytest.approx(3 * 32**3 * 4 / 2**30)

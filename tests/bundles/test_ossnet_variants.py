"""The published variants of OSS-Net in both bundles that have them."""

import pytest

from custom_nets.networks import OSSNet
from custom_nets.networks.ossnet.network import VARIANTS
from tests.bundles.bundle import Bundle

both_bundles = pytest.mark.parametrize("bundle", ["ossnet_brats", "ossnet_lits"])


@both_bundles
@pytest.mark.parametrize("first", ["train", "inference"])
@pytest.mark.parametrize("variant", ["onet", "a", "b", "c", "d"])
def test_published_variants_are_one_override_away(bundle, first, variant):
    net = Bundle(bundle).parse(first, "variant", variant=variant).get_parsed_content("network_def")
    assert isinstance(net, OSSNet)
    assert net.variant == VARIANTS[variant]
    assert net.coordinates == "unit"


@both_bundles
@pytest.mark.parametrize(("variant", "prior"), [("onet", "none"), ("a", "none"), ("c", "restrict"), ("d", "restrict")])
def test_paper_asks_for_a_prior_only_where_the_encoder_has_one(bundle, variant, prior):
    parser = Bundle(bundle).parse("train", "paper", variant=variant)
    assert parser.get_parsed_content("validate#inferer").inferer.search.prior == prior

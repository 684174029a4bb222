"""Mean and spread of an ensemble are told apart."""

import torch
from monai.data import MetaTensor

from custom_nets.transforms import SplitSpreadd


def test_the_second_half_of_the_channels_is_the_spread():
    both = MetaTensor(torch.rand(6, 2, 2, 2), affine=torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0])))
    item = SplitSpreadd("pred", "doubt")({"pred": both, "case": "a"})
    assert torch.equal(item["pred"], both[:3])
    assert torch.equal(item["doubt"], both[3:])
    assert torch.equal(item["doubt"].affine, both.affine)
    assert item["case"] == "a"

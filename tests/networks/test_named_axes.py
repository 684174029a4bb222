"""Weights for other channels and regions: each keeps what it had, by its name."""

import pytest
import torch

from custom_nets.networks import NvNet, OSSNet, PyramidOSSNet
from custom_nets.networks.named_axes import NamedAxis, map_weights

OLD = {"channels": ["T1", "FLAIR", "T1ce"], "regions": ["WT"]}
NEW = {"channels": ["FLAIR", "T1", "T1ce", "T2"], "regions": ["WT", "TC"]}
PYRAMID = {"channels": (8, 8), "hidden_features": 16, "downsampling": 2}


def pyramid(names, **keys):
    return PyramidOSSNet(len(names["channels"]), len(names["regions"]), **PYRAMID, **keys).eval()


def nvnet(names):
    return NvNet(len(names["channels"]), len(names["regions"]), init_filters=8, crop_size=(16, 16, 16)).eval()


def ossnet(names):
    return OSSNet("c", len(names["channels"]), len(names["regions"]), grid_size=(32, 32, 32)).eval()


def moved(make, old, new):
    """A network with the weights of another one, and that one."""
    torch.manual_seed(0)
    source, target = make(old), make(new)
    weights, anew = map_weights(target, source.state_dict(), old, new)
    target.load_state_dict(weights)
    return source, target, anew


@pytest.mark.parametrize("make", [pyramid, lambda names: pyramid(names, contrast=(0.0, 1.0)), nvnet])
def test_answers_as_before_whatever_a_new_channel_holds(make):
    source, target, anew = moved(make, OLD, NEW)
    assert anew == []
    image = torch.rand(1, 4, 16, 16, 16)
    order = [NEW["channels"].index(name) for name in OLD["channels"]]
    with torch.no_grad():
        before, after = source(image[:, order]), target(image)
    assert torch.allclose(after[:, :1], before, atol=1e-5)
    assert after.shape[1] == 2


@pytest.mark.parametrize("make", [pyramid, nvnet])
def test_a_channel_that_is_left_out_had_its_say(make):
    fewer = {"channels": ["T1ce", "T1"], "regions": ["WT"]}
    source, target, _ = moved(make, OLD, fewer)
    image = torch.rand(1, 3, 16, 16, 16)
    image[:, 1] = 0
    with torch.no_grad():
        assert torch.allclose(target(image[:, [2, 0]]), source(image), atol=1e-5)


def test_patches_start_anew_where_the_channels_are_others():
    _, _, anew = moved(ossnet, OLD, NEW)
    assert anew
    assert all(name.startswith("decoder.patch_mapping.") for name in anew)
    _, _, anew = moved(ossnet, OLD, {**OLD, "regions": ["WT", "TC"]})
    assert anew == []


def test_every_tensor_that_depends_on_channels_or_regions_is_named():
    for make in (pyramid, nvnet, ossnet):
        one, other = make(OLD), make(NEW)
        shapes = {name: tensor.shape for name, tensor in one.state_dict().items()}
        differing = {name for name, tensor in other.state_dict().items() if tensor.shape != shapes[name]}
        assert differing <= set(other.named_axes())


def test_of_another_size_it_stays_as_it_is():
    _, anew = map_weights(pyramid(NEW), {"decoder.0.weight": torch.zeros(5, 5)}, OLD, NEW)
    assert anew == []


def test_entries_lie_in_views_of_runs():
    axis = NamedAxis("channels", 1, before=2, views=2, run=3, after=1)
    assert axis.length(4) == 2 + 2 * 4 * 3 + 1
    assert axis.start(1, 2, 4) == 2 + (4 + 2) * 3

"""TorchScript of our networks: what was traced on one image holds for others."""

import io
from dataclasses import replace

import pytest
import torch

from custom_nets.networks import NvNet, OSSNet, PyramidOSSNet, PyramidSettings

SIZES = [(8, 16, 8), (16, 8, 24)]


def network(kind: str):
    torch.manual_seed(0)
    pyramid = {"channels": (8, 8, 16), "hidden_features": 16}
    settings = PyramidSettings(points_per_chunk=600)
    if kind == "nvnet":
        net = NvNet(init_filters=8, crop_size=(16, 16, 16))
    elif kind == "pyramid":
        net = PyramidOSSNet(4, 3, settings=settings, **pyramid)
    elif kind == "pyramid on one grid":
        net = PyramidOSSNet(4, 3, settings=replace(settings, grid_size=(8, 12, 8)), **pyramid)
    elif kind == "pyramid in mm":
        settings = PyramidSettings(points_per_chunk=600, top_down=True)
        net = PyramidOSSNet(4, 2, spacing=1.0, contrast=(0.2, 0.5), settings=settings, **pyramid)
    else:
        net = OSSNet(kind, 4, 3, grid_size=(24, 16, 20), encoder_channels=(8, 16), hidden_features=16)
    with torch.no_grad():
        for parameter in net.parameters():  # many start from 0, and would hide a fault
            parameter.add_(0.05 * torch.randn_like(parameter))
    return net.eval()


def saved_and_loaded(net):
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(net), file)
    file.seek(0)
    return torch.jit.load(file)


@pytest.mark.parametrize(
    "kind", ["nvnet", "pyramid", "pyramid on one grid", "pyramid in mm", "onet", "a", "b", "c", "d"]
)
@torch.no_grad()
def test_a_scripted_network_gives_the_same_logits_for_any_image(kind):
    net = network(kind)
    scripted = saved_and_loaded(net)
    for size in SIZES:
        image = torch.rand(2, 4, *size)
        torch.testing.assert_close(scripted(image), net(image), atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_scripted_network_that_counts_in_mm_takes_the_spacing():
    net = network("pyramid in mm")
    scripted = saved_and_loaded(net)
    image, spacing = torch.rand(1, 4, *SIZES[0]), torch.tensor([[0.8, 1.0, 2.5]])
    expected = net.decode_dense(net.encode_spaced(image, spacing), image)
    torch.testing.assert_close(scripted(image, spacing), expected, atol=1e-5, rtol=0)
    assert not torch.allclose(scripted(image), expected, atol=1e-3)


@pytest.mark.parametrize("kind", ["pyramid", "pyramid on one grid", "c"])
@torch.no_grad()
def test_a_scripted_network_answers_for_points(kind):
    net = network(kind)
    scripted = saved_and_loaded(net)
    image = torch.rand(1, 4, *SIZES[1])
    points = torch.tensor([[[0, 0, 0], [15, 7, 23], [7, 5, 9]]])
    answers = scripted.decode(scripted.encode(image), image, points)
    torch.testing.assert_close(answers, net.decode(net.encode(image), image, points), atol=1e-5, rtol=0)


def test_scripting_leaves_a_network_in_training():
    net = network("pyramid").train()
    torch.jit.script(net)
    assert all(module.training for module in net.modules())

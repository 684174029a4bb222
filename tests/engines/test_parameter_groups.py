"""Weight decay on kernels alone."""

from torch import nn

from custom_nets.engines import kernel_decay


def test_kernels_decay_and_nothing_else():
    net = nn.Sequential(nn.Conv3d(1, 2, 3), nn.GroupNorm(1, 2), nn.Conv3d(2, 2, 1), nn.Linear(2, 2))
    kernels, others = kernel_decay(net, 0.5)
    assert [id(p) for p in kernels["params"]] == [id(net[0].weight), id(net[2].weight)]
    assert (kernels["weight_decay"], others["weight_decay"]) == (0.5, 0)
    assert len(kernels["params"]) + len(others["params"]) == len(list(net.parameters()))


def test_frozen_parameters_are_left_out():
    net = nn.Conv3d(1, 1, 3).requires_grad_(False)
    assert kernel_decay(net, 0.5)[0]["params"] == []

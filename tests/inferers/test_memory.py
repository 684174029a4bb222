"""The estimate of what an inference takes, against what it takes."""

import gc

import pytest
import torch

from custom_nets.inferers import EnsembleInferer, OccupancyInferer, SearchSettings
from custom_nets.inferers.memory import estimate_memory
from custom_nets.networks import NvNet, OSSNet, PyramidOSSNet

CPU = torch.device("cpu")
SIZE = (32, 32, 32)


def largest_sum_of_tensors(function) -> int:
    """Bytes of the tensors that live at a time, at most, by PyTorch's own profiler."""
    gc.collect()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    held, peak = 0, 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


@pytest.mark.parametrize("kind", ["pyramid", "c", "d"])
def test_the_estimate_is_near_what_is_held(kind):
    size = {"grid_size": [side // 2 for side in SIZE]}
    network = PyramidOSSNet(4, 2) if kind == "pyramid" else OSSNet(kind, 4, 2, **size)
    network.eval()
    image = torch.randn(1, 4, *SIZE)
    inferer = OccupancyInferer(SearchSettings("dense"), points_per_chunk=8192)
    with torch.no_grad():
        network.prepare_decoder(network.encode(image), image)(torch.zeros(1, 512, 3, dtype=torch.int64))  # compiles
    parts = estimate_memory(network, inferer, (4, *SIZE), CPU)
    held = largest_sum_of_tensors(lambda: inferer(image, network)) / 2**30
    estimated = parts["peak"] - parts["image"] - parts["weights"]
    assert 0.6 * held < estimated < 1.7 * held


def test_a_network_that_counts_in_millimetres_is_estimated():
    plain = estimate_memory(PyramidOSSNet(1, 1), OccupancyInferer(), (1, *SIZE), CPU)
    assert estimate_memory(PyramidOSSNet(1, 1, spacing=1.0), OccupancyInferer(), (1, *SIZE), CPU) == plain


def test_mirrored_members_hold_their_images_and_latents_at_a_time():
    network, inferer = PyramidOSSNet(1, 1, channels=(8, 8)), OccupancyInferer(points_per_chunk=64)
    alone = estimate_memory(network, inferer, (1, *SIZE), CPU)
    both = estimate_memory(network, EnsembleInferer(inferer, mirror_axes=0, spread=True), (1, *SIZE), CPU)
    assert both["points"] == pytest.approx(alone["points"] + both["image"])  # the mirrored one
    assert both["result"] == 2 * alone["result"]
    assert both["peak"] > alone["peak"]


def test_half_precision_halves_result_and_image():
    network = PyramidOSSNet(1, 1)
    full = estimate_memory(network, OccupancyInferer(), (1, *SIZE), CPU)
    half = estimate_memory(network, OccupancyInferer(output_dtype=torch.float16), (1, *SIZE), CPU, torch.float16)
    assert half["image"] == full["image"] / 2
    assert half["result"] == full["result"] / 2


def test_a_convolutional_network_is_one_pass_over_the_image():
    parts = estimate_memory(NvNet(init_filters=8, vae=False), None, (4, 64, 64, 64), CPU)
    features = 8 * 64**3 * 4 / 2**30
    assert 2 * features < parts["encoder"] < 8 * features
    assert parts["peak"] == pytest.approx(parts["image"] + parts["weights"] + parts["encoder"])


def test_the_network_is_left_as_it_was():
    network = OSSNet("c", 4, 1, grid_size=(16, 16, 16))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    estimate_memory(network, OccupancyInferer(), (4, 32, 32, 32), CPU)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())

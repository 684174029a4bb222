"""Sizes of chunks, and what happens when memory runs out."""

import logging

import pytest
import torch

from custom_nets.errors import InputError
from custom_nets.inferers.chunks import ChunkSize
from custom_nets.networks import OSSNet, PyramidOSSNet, PyramidSettings
from tests.inferers.fields import FieldNetwork, build_inferer, image_for, signed_ball

CPU = torch.device("cpu")
MESSAGES = {
    "gpu": torch.OutOfMemoryError("CUDA out of memory."),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried"),
}


class SmallMemory(FieldNetwork):
    """Runs out of memory when queried at more than so many points at a time."""

    def __init__(self, field: torch.Tensor, most: int, error: RuntimeError) -> None:
        super().__init__(field)
        self.most, self.error = most, error

    def decode(self, latent, image, points):
        if points.shape[1] > self.most:
            raise self.error
        return super().decode(latent, image, points)


class Greedy(FieldNetwork):
    bytes_per_point = 2**20


def ball() -> torch.Tensor:
    return signed_ball((40, 40, 40), (20, 20, 20), 12)


@pytest.mark.parametrize("device", list(MESSAGES))
@pytest.mark.parametrize("mode", ["surface", "published", "dense"])
def test_memory_that_runs_out_changes_nothing_but_the_chunks(device, mode):
    network = SmallMemory(ball(), 300, MESSAGES[device])
    inferer = build_inferer(mode=mode)
    result = inferer(image_for(ball()), network)
    expected = build_inferer(mode=mode)(image_for(ball()), FieldNetwork(ball()))
    assert torch.equal(result, expected)
    assert 150 < max(map(len, network.calls)) <= 300
    assert inferer.stats.queries == sum(map(len, network.calls))


def test_what_did_not_fit_is_not_tried_again_and_told_once(caplog):
    network, inferer = SmallMemory(ball(), 300, MESSAGES["gpu"]), build_inferer()
    tried = []
    decode = network.decode
    network.decode = lambda latent, image, points: (tried.append(points.shape[1]), decode(latent, image, points))[1]
    with caplog.at_level(logging.WARNING):
        inferer(image_for(ball()), network)
        before = len(tried)
        inferer(image_for(ball()), network)
    assert max(tried[before:]) <= 300
    assert sum("going on with fewer" in record.message for record in caplog.records) == 1


def test_memory_that_never_suffices_is_an_error_of_one_line():
    with pytest.raises(InputError, match="does not suffice to decode even") as raised:
        build_inferer()(image_for(ball()), SmallMemory(ball(), 3, MESSAGES["gpu"]))
    assert "\n" not in str(raised.value)


def test_other_errors_are_raised():
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        build_inferer()(image_for(ball()), SmallMemory(ball(), 3, RuntimeError("mat1 and mat2 shapes")))


def test_memory_limit_bounds_the_chunks():
    network = Greedy(ball())
    build_inferer(mode="dense", memory_limit=100 / 1024)(image_for(ball()), network)
    assert max(map(len, network.calls)) == 100


@pytest.mark.parametrize("points", ["auto", None])
def test_auto_is_what_the_network_prefers(points):
    chunk = ChunkSize(points)
    assert chunk.choose(PyramidOSSNet(settings=PyramidSettings(points_per_chunk=777)), CPU) == 777
    assert chunk.choose(OSSNet(grid_size=(16, 16, 16)), CPU) == 2048


@pytest.mark.parametrize("points", [0, -5, 1.5, "many"])
def test_points_that_make_no_sense_are_refused(points):
    with pytest.raises(InputError, match=r"points_per_chunk is .*; expected a whole number of at least 1, or auto"):
        ChunkSize(points)


def test_no_memory_is_refused():
    with pytest.raises(InputError, match="memory_limit is 0; expected GiB above 0"):
        ChunkSize(memory_limit=0)

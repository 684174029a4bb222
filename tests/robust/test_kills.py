"""Trainings that are killed at random moments, saves included, and go on to the same end, bit for bit.

`TORTURE=200` in the environment (`make torture`) asks for so many kills of each bundle.
"""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from custom_nets.io.files import _HOST
from custom_nets.io.weights import read_state_dict
from tests.bundles.bundle import SMALLEST
from tests.robust.trainings import start, strike, wait

KILLS = int(os.environ.get("TORTURE", "14"))
FILES = ("model.pt", "checkpoint_best.pt", "checkpoint_last.pt")
SAVES = 9  # of a training: in each of three epochs the model and the best state if it is better, and the last one


@pytest.fixture(scope="module", params=list(SMALLEST))
def whole(request, small_data_of, tmp_path_factory):
    """An uninterrupted training: its bundle, folder, and seconds."""
    folder = tmp_path_factory.mktemp(request.param) / "whole"
    wait(start(request.param, small_data_of[request.param], folder.with_name("warm")))
    begun = time.monotonic()
    assert wait(start(request.param, small_data_of[request.param], folder)) == 0
    return request.param, folder, time.monotonic() - begun


def equal(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def check_whole(folder) -> None:
    """Whatever has its name is complete."""
    for file in folder.glob("*.pt"):
        read_state_dict(file)


def finish(name, data, folder, workers=0) -> None:
    """Goes on with a run, from its start where nothing was saved yet."""
    resume = any(folder.glob("checkpoint_*.pt"))
    status = wait(start(name, data, folder, resume, workers=workers))
    assert status == 0, Path(f"{folder}.log").read_text()[-3000:]


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(whole, small_data_of, tmp_path):
    name, reference, seconds = whole
    draw = random.Random(f"{name} {KILLS}")
    for kill in range(KILLS):
        folder = tmp_path / f"run_{kill}"
        number = draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        if kill % 2:
            where = (draw.randint(1, SAVES), draw.choice(["half", "before", "after"]))
            wait(start(name, small_data_of[name], folder, die=where))
        else:
            where = (draw.uniform(0.2, 1) * seconds, number)
            strike(start(name, small_data_of[name], folder), *where)
        check_whole(folder)
        finish(name, small_data_of[name], folder)
        for file in FILES:
            one, other = (torch.load(place / file, weights_only=True) for place in (reference, folder))
            assert equal(one, other), (file, where)
        assert not list(folder.rglob(".part-*")), where


@pytest.mark.parametrize("epoch", [2, 3])
def test_a_stop_while_validating_changes_nothing(epoch, whole, small_data_of, tmp_path):
    """The score that was not known yet is in the last state, although no step follows the last validation."""
    name, reference, _ = whole
    folder = tmp_path / "run"
    assert wait(start(name, small_data_of[name], folder, stop_validating=epoch)) == 128 + signal.SIGTERM
    finish(name, small_data_of[name], folder)
    for file in FILES:
        assert equal(*(torch.load(place / file, weights_only=True) for place in (reference, folder))), file


def test_a_finished_run_clears_up_what_a_killed_one_was_writing(whole, small_data_of, tmp_path):
    name, reference, _ = whole
    folder = tmp_path / "run"
    shutil.copytree(reference, folder)
    nobody = 2**22 + 1  # above the largest number of a process
    for place in (folder, folder / "log"):
        (place / f".part-{_HOST}-{nobody}-0123456789ab").mkdir()
    finish(name, small_data_of[name], folder)
    assert not list(folder.rglob(".part-*"))


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_loaders_with_processes_go_on_alike(workers, small_data_of, tmp_path):
    """In the middle of an epoch, whose crops and flips the processes draw."""
    name, whole, parts = "nvnet_brats", tmp_path / "whole", tmp_path / "parts"
    assert wait(start(name, small_data_of[name], whole, workers=workers)) == 0
    process = start(name, small_data_of[name], parts, workers=workers, stop_after=3)
    assert wait(process) == 128 + signal.SIGTERM
    assert torch.load(parts / "checkpoint_last.pt", weights_only=True)["trainer"]["iteration"] == 3
    finish(name, small_data_of[name], parts, workers)
    for file in FILES:
        assert equal(*(torch.load(folder / file, weights_only=True) for folder in (whole, parts))), file

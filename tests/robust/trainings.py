"""Trainings in processes of their own, which can be killed; nothing is imported anew for each."""

import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from custom_nets.handlers import BadSteps, TrainingCheckpoints
from tests.bundles.bundle import SMALLEST, Bundle
from tests.processes import FORKSERVER

KEYS = {"epochs": 3, "epoch_length": 2, "val_interval": 1, "checkpoint_interval": 1, "validation": 1, "batch_size": 1}
SEARCH = {
    "ossnet_brats": {"scan_step": 16, "coarse_step": 16, "cache_rate": 1.0},
    "ossnet_lits": {"coarse_step": 64, "candidate_step": 32, "validation_workers": 0},
    "nvnet_brats": {"reconstruction_picture": False, "inferer_mode": "whole"},
}


def start(
    name: str,
    data: Path,
    folder: Path,
    resume: bool = False,
    die: tuple[int, str] | None = None,
    workers: int = 0,
    stop_after: int = 0,
    stop_validating: int = 0,
):
    """Starts a training.

    Args:
        name: of the bundle.
        data: folder of its cases.
        folder: of its checkpoints and logs.
        resume: whether it goes on.
        die: the save in which it kills itself, and where: half, before or after the renaming.
        workers: of the loader.
        stop_after: the step after which it sends itself SIGTERM; 0 for none.
        stop_validating: the epoch in whose validation it sends itself SIGTERM; 0 for none.
    """
    stops = (stop_after, stop_validating)
    process = FORKSERVER.Process(target=_train, args=(name, data, folder, resume, die, workers, *stops))
    process.start()
    return process


def _train(
    name: str,
    data: Path,
    folder: Path,
    resume: bool,
    die: tuple[int, str] | None,
    workers: int,
    stop_after: int,
    stop_validating: int,
) -> None:
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of the loaders, as on Linux
    with Path(f"{folder}.log").open("a") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    logging.basicConfig(level=logging.INFO, force=True)
    if die is not None:
        _die_in_save(*die)
    places = {"dataset_dir": str(data), "ckpt_dir": str(folder), "output_dir": str(folder / "log")}
    keys = {**SMALLEST[name], **SEARCH[name], **KEYS, **places, "num_workers": workers, "resume": resume}
    if stop_after:
        _stop_in(BadSteps, "_check", lambda engine: engine.state.iteration == stop_after)
    if stop_validating:
        _stop_in(TrainingCheckpoints, "_validation_started", lambda engine: engine.state.max_epochs == stop_validating)
    Bundle(name).run("training", "train", **keys)


def _stop_in(handler: type, method: str, when: Callable[[Any], bool]) -> None:
    """Lets a handler's method send SIGTERM to its own process."""
    handle = getattr(handler, method)

    def stopping(self, engine) -> None:
        handle(self, engine)
        if when(engine):
            os.kill(os.getpid(), signal.SIGTERM)

    setattr(handler, method, stopping)


def _die_in_save(number: int, where: str) -> None:
    save, replace = torch.save, os.replace
    count = iter(range(1, number + 1))

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def dying_save(content, file, **options):
        save(content, file, **options)
        if next(count) == number:
            if where == "half":
                file.truncate(file.tell() // 2)
                file.flush()
                die()
            Path.replace = dying_replace

    def dying_replace(self, target):
        if where == "before":
            die()
        replace(self, target)
        die()

    torch.save = dying_save


def wait(process, seconds: float = 120) -> int:
    """Returns the exit status of a training that ends by itself."""
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        raise TimeoutError("a training did not end")
    return process.exitcode


def strike(process, seconds: float, number: int) -> None:
    """Sends a signal after some time, if the training still runs, and waits for its end."""
    end = time.monotonic() + seconds
    while process.is_alive() and time.monotonic() < end:
        time.sleep(0.005)
    if process.is_alive():
        os.kill(process.pid, number)
    wait(process)

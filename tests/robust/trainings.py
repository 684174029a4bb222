"""Trainings in processes of their own, which can be killed; nothing is imported anew for each."""

import logging
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import torch

from tests.bundles.bundle import SMALLEST, Bundle

KEYS = {"epochs": 3, "epoch_length": 2, "val_interval": 1, "checkpoint_interval": 1, "validation": 1, "batch_size": 1}
SEARCH = {
    "ossnet_brats": {"scan_step": 16, "coarse_step": 16, "cache_rate": 1.0},
    "ossnet_lits": {"coarse_step": 64, "candidate_step": 32, "validation_workers": 0},
    "nvnet_brats": {"reconstruction_picture": False, "inferer_mode": "whole"},
}

_CONTEXT = multiprocessing.get_context("forkserver")
_ROOMS = ("datasets", "handlers", "inferers", "losses", "metrics", "networks", "transforms")
_PRELOADED = ("pytest", "torch._dynamo", "torch.utils.tensorboard", "monai.bundle", "monai.engines", "monai.handlers")
_CONTEXT.set_forkserver_preload([*_PRELOADED, *(f"custom_nets.{room}" for room in _ROOMS)])


def start(
    name: str, data: Path, folder: Path, resume: bool = False, die: tuple[int, str] | None = None, workers: int = 0
):
    """Starts a training; with `die`, it kills itself in its save of that number: half, before or after the renaming."""
    process = _CONTEXT.Process(target=_train, args=(name, data, folder, resume, die, workers))
    process.start()
    return process


def _train(name: str, data: Path, folder: Path, resume: bool, die: tuple[int, str] | None, workers: int) -> None:
    torch.set_num_threads(1)
    with Path(f"{folder}.log").open("a") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    logging.basicConfig(level=logging.INFO, force=True)
    if die is not None:
        _die_in_save(*die)
    places = {"dataset_dir": str(data), "ckpt_dir": str(folder), "output_dir": str(folder / "log")}
    keys = {**SMALLEST[name], **SEARCH[name], **KEYS, **places, "num_workers": workers, "resume": resume}
    Bundle(name).run("training", "train", **keys)


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

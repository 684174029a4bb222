"""The published training of OSS-Net on BraTS, on a GPU: 320 cases, 50 epochs, batches of 8 x 2^14 points.

It is the bundle's own training (train.json, paper.json) with its cases kept on the device (`cache_device`). The cases
are phantoms, of which only a few are made and given again and again, each time with another augmentation and other
points: for the time of a step it makes no difference, for the accuracy it would. Unless it ends before the limit, the
whole time is extrapolated from the steps that were done.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from _report import report
from ignite.engine import Events
from monai.bundle import ConfigParser

from custom_nets.datasets import datalist
from custom_nets.tools import write_brain_phantoms

CONFIGS = Path(__file__).parent.parent / "bundles" / "ossnet_brats" / "configs"
CACHE = Path(__file__).parent / ".cache"


def make_cases(distinct: int, shape: tuple[int, ...]) -> list[dict[str, Any]]:
    """Phantoms of the size of BraTS, made once, in as many processes as there are cores."""
    folders = [CACHE / f"published_{'x'.join(map(str, shape))}" / str(seed) for seed in range(distinct)]
    missing = [folder for folder in folders if not folder.is_dir()]
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(write_brain_phantoms, folder, 1, shape, int(folder.name), False) for folder in missing]
        for job in jobs:
            job.result()
    return [case for folder in folders for case in datalist(str(folder))]


def train(cases: list[dict[str, Any]], options: argparse.Namespace, half: bool) -> dict[str, Any]:
    """Trains until the end or the limit."""
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / "train.json"), str(CONFIGS / "paper.json")])
    parser.update(
        {
            "training_cases": cases,
            "validation_cases": [],
            "device": options.device,
            "cache_device": options.device,
            "image_dtype": torch.float16 if options.device.startswith("cuda") else torch.float32,
            "num_workers": os.cpu_count(),  # threads that fill the cache
            "train#dataset#hash_as_key": True,  # a case that is given again is kept once
            "batch_size": options.batch,
            "epochs": options.epochs,
            "num_points": options.points,
            "val_interval": 0,
            "amp": half,
            "variant": options.variant,
            "train#handlers": [],
        }
    )
    start = time.perf_counter()
    trainer = parser.get_parsed_content("train#trainer")
    loading = time.perf_counter() - start
    ends, losses, batches = [], [], []

    def count_batch(_engine: Any) -> None:
        if options.device.startswith("cuda"):
            torch.cuda.synchronize()
        batches.append(time.perf_counter())

    def count(engine: Any) -> None:
        losses.append(float(engine.state.output["loss"]))  # waits for the device
        ends.append(time.perf_counter())
        if ends[-1] - start > options.limit_seconds:
            engine.terminate()

    trainer.add_event_handler(Events.GET_BATCH_COMPLETED, count_batch)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, count)
    trainer.run()
    warm = min(20, len(ends) // 2)
    steps = [b - a for a, b in pairwise(ends[warm:])] or [ends[-1] - start]
    preparing = [b - a for a, b in zip(ends[warm:], batches[warm + 1 :], strict=False)] or [batches[0] - start]
    total = len(trainer.data_loader) * options.epochs
    done = len(ends)
    whole = (
        ends[-1] - start
        if done >= total
        else loading + (ends[0] - start - loading) + (total - 1) * statistics.mean(steps)
    )
    return {
        "precision": "bfloat16" if half else "float32 (TF32)",
        "cases": f"{len(cases)}, {options.distinct} of them distinct",
        "steps done": f"{done} of {total}",
        "filling the cache, s": loading,
        "step, s": statistics.mean(steps),
        "of it the batch, s": statistics.mean(preparing),
        "epoch, s": statistics.mean(steps) * len(trainer.data_loader),
        "whole training, min": whole / 60,
        "extrapolated": done < total,
        "peak GB": torch.cuda.max_memory_allocated() / 1e9 if options.device.startswith("cuda") else 0.0,
        "loss, first and last 10": f"{statistics.mean(losses[:10]):.3f}, {statistics.mean(losses[-10:]):.3f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=320)
    parser.add_argument("--distinct", type=int, default=16)
    parser.add_argument("--shape", type=int, nargs=3, default=(240, 240, 155))
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--points", type=int, default=2**14)
    parser.add_argument("--variant", default="c")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--limit-seconds", type=float, default=3600.0, help="of each precision")
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    distinct = make_cases(options.distinct, tuple(options.shape))
    cases = (distinct * -(-options.cases // len(distinct)))[: options.cases]
    rows = [train(cases, options, half) for half in (True, False)]
    title = f"OSS-Net {options.variant.upper()}, {options.cases} cases x {options.epochs} epochs, published set-up"
    report("published_training", title, rows, "whole training, min")


if __name__ == "__main__":
    main()

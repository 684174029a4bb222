"""Memory and time of training and inference on a case of full size, each method in its own process."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

import torch
from _memory import PeakMemory
from _methods import METHODS, MODALITIES, PointMethod, prepare_item
from _report import report


def measure_training(name: str, size: tuple[int, ...]) -> dict[str, float]:
    """Three steps of AdamW on noise with a ball in it."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    image = torch.randn(MODALITIES, *size)
    axes = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in size), indexing="ij")
    radius = torch.stack(axes).square().sum(0).sqrt()
    item = prepare_item(image, torch.stack([radius < r for r in (0.4, 0.3, 0.2)]).byte())
    memory = PeakMemory(device)
    method = METHODS[name].build(size, 0)
    method.network.to(device)
    optimizer = torch.optim.AdamW(method.network.parameters())
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        loss = method.loss(item, device=device)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    return {"training MiB": memory.mebibytes(), "training step, s": min(seconds)}


def measure_inference(name: str, size: tuple[int, ...]) -> dict[str, float]:
    """One inference by a network that finds nothing: an untrained one would have surfaces everywhere to follow."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    image = torch.randn(1, MODALITIES, *size, device=device)
    memory = PeakMemory(device)
    method = METHODS[name].build(size, 0)
    network = method.network.to(device).eval()
    with torch.no_grad():
        if isinstance(method, PointMethod):
            last = [module for module in network.decoder.modules() if isinstance(module, torch.nn.Linear)][-1]
            for parameter in last.parameters():
                parameter.zero_()
        method.predict(image)
    return {"inference MiB": memory.mebibytes()}


# glibc would keep part of what is freed for later, the more the more sizes a program asks for; now it is free at once.
RETURN_FREED = {"MALLOC_MMAP_THRESHOLD_": "131072"}

MEASURES = {"training": measure_training, "inference": measure_inference}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs=3, default=(160, 192, 160))
    parser.add_argument("--one", nargs=2, help="training or inference, and a method: measure it in this process")
    options = parser.parse_args()
    if options.one:
        what, name = options.one
        print(json.dumps(MEASURES[what](name, tuple(options.size))))
        return
    rows = []
    for name in METHODS:
        row: dict[str, float | str] = {"method": name}
        for what in MEASURES:
            command = [sys.executable, "-W", "ignore", __file__, "--size", *map(str, options.size), "--one", what, name]
            done = subprocess.run(
                command, env={**os.environ, **RETURN_FREED}, stdout=subprocess.PIPE, text=True, check=True
            )
            row |= json.loads(done.stdout.splitlines()[-1])
        print(row, flush=True)
        rows.append(row)
    reference = next(row["training MiB"] for row in rows if row["method"] == "residual UNet")
    for row in rows:
        row["training memory, times residual UNet"] = row["training MiB"] / reference
    size = "x".join(str(side) for side in options.size)
    report(
        "memory",
        f"A training step and an inference on one case of {size} with four modalities, float32",
        rows,
        "training MiB",
    )


if __name__ == "__main__":
    main()

"""Step time and peak memory of training by resolution: the curve that is the paper's point.

A step is forward, backward and optimizer on cubes of noise with four modalities: occupancy networks on 2^14 points of
one image, convolutional networks on every voxel of it. With `--batches` instead: the published set-up of 256x256x160
by batch size, beside the memory that the paper states (2.6 GB for C, 2.8 GB for D; it does not say for which batch).
Memory is that of all tensors on a GPU; on a CPU it is that of a process for each row, above Python and PyTorch.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from _memory import PeakMemory
from _report import RESULTS, report
from memory import RETURN_FREED
from monai.networks.nets import SegResNet, UNet
from monai.utils import optional_import
from torch import Tensor, nn

from custom_nets.losses import OccupancyLoss
from custom_nets.networks import OSSNet, OSSNetSettings, PyramidOSSNet

POINTS = 2**14
PAPER_GB = {"OSS-Net C": 2.6, "OSS-Net D": 2.8}
NETWORKS = ("Pyramid OSS-Net", "O-Net", "OSS-Net C", "OSS-Net D", "residual UNet", "SegResNet 8", "SegResNet 32")


def build(name: str, size: tuple[int, ...]) -> nn.Module:
    """An untrained network for four modalities and one region."""
    torch.manual_seed(0)
    if name == "Pyramid OSS-Net":
        return PyramidOSSNet(4, 1)
    if name == "residual UNet":
        return UNet(3, 4, 1, channels=(16, 32, 64, 128, 256), strides=(2, 2, 2, 2), num_res_units=2)
    if name.startswith("SegResNet"):
        return SegResNet(3, int(name.split()[1]), 4, 1)
    variant = name.split()[-1].lower() if name.startswith("OSS") else "onet"
    grid = [side // 2 for side in size]
    return OSSNet(variant, 4, 1, grid_size=grid, settings=OSSNetSettings("voxel", latent_size=(8, 8, 5)))


def loss_function(network: nn.Module, image: Tensor) -> Callable[[], Tensor]:
    """One forward pass: on points where the network takes them, else on every voxel."""
    size = image.shape[2:]
    if isinstance(network, (OSSNet, PyramidOSSNet)):
        draws = [torch.randint(0, side, (len(image), POINTS), device=image.device) for side in size]
        points = torch.stack(draws, dim=-1)
        labels = torch.randint(0, 2, (len(image), POINTS, 1), device=image.device).float()
        criterion = OccupancyLoss()

        def of_points() -> Tensor:
            logits, auxiliary = network(image, points)
            target = None if auxiliary is None else torch.zeros_like(auxiliary)
            return criterion((logits, auxiliary), (labels, target))

        return of_points
    label = torch.randint(0, 2, (len(image), 1, *size), device=image.device, dtype=torch.uint8)
    criterion_of_voxels = nn.BCEWithLogitsLoss()
    return lambda: criterion_of_voxels(network(image).float(), label.float())


def measure(name: str, size: tuple[int, ...], batch: int, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of the fastest step and the peak of memory."""
    device = torch.device(options.device)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.cuda.init()
    memory = PeakMemory(device)
    network = build(name, size).to(device)
    optimizer = torch.optim.RAdam(network.parameters(), lr=3e-4)
    image = torch.randn(batch, 4, *size, device=device)
    loss_of = loss_function(network, image)
    seconds = []
    for _ in range(options.steps):
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=options.half):
            loss = loss_of()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return {"step, s": min(seconds), "peak GB": memory.mebibytes() * 2**20 / 1e9}


def row_of(name: str, size: tuple[int, ...], batch: int, options: argparse.Namespace) -> dict[str, Any]:
    """A row; without figures where memory did not suffice.

    On a CPU it is measured in a process of its own; on a GPU the allocator knows what belongs to what.
    """
    row: dict[str, Any] = {"network": name, "size": "x".join(map(str, size)), "batch": batch}
    if options.device != "cpu":
        try:
            row |= measure(name, size, batch, options)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
        print(row, flush=True)
        return row
    command = [sys.executable, "-W", "ignore", __file__, "--one", name, *map(str, size), str(batch)]
    command += ["--device", options.device, "--steps", str(options.steps), *["--half"] * options.half]
    done = subprocess.run(command, env={**os.environ, **RETURN_FREED}, capture_output=True, text=True)
    if done.returncode:
        print(row, done.stderr.strip().splitlines()[-1:], flush=True)
        return row
    row |= json.loads(done.stdout.splitlines()[-1])
    print(row, flush=True)
    return row


def plot(path: str, rows: list[dict[str, Any]]) -> None:
    """Memory against resolution, both on logarithmic axes."""
    figure_module, found = optional_import("matplotlib.figure")
    if not found:
        return
    figure = figure_module.Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(row["network"] for row in rows):
        own = [(int(row["size"].split("x")[0]), row["peak GB"]) for row in rows if row["network"] == name]
        axes.loglog(*zip(*own, strict=True), marker="o", label=name)
    sides = sorted({int(row["size"].split("x")[0]) for row in rows})
    axes.set_xticks(sides, [f"{side}³" for side in sides], minor=False)
    low, high = (bound(row["peak GB"] for row in rows) for bound in (min, max))
    axes.set_yticks(
        ticks := [2.0**power for power in range(-6, 9) if low / 2 <= 2.0**power <= 2 * high],
        [f"{tick:g}" for tick in ticks],
    )
    axes.minorticks_off()
    axes.set_xlabel("voxels of the image")
    axes.set_ylabel("peak memory of a training step, GB")
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(RESULTS / path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 96, 128, 160, 192])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--batches", type=int, nargs="+", help="of the published set-up, such as 1 2 4 8")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--half", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--one", nargs=5, help="network, three sides and batch: measure this in this process")
    options = parser.parse_args()
    if options.one:
        name, *numbers = options.one
        *size, batch = map(int, numbers)
        print(json.dumps(measure(name, tuple(size), batch, options)))
        return
    precision = "bfloat16" if options.half else "float32"
    kind = f"{options.device}{'_half' if options.half else ''}"
    if options.batches:
        names = [name for name in PAPER_GB if name in options.networks]
        rows = [
            row_of(name, (256, 256, 160), batch, options) | {"paper GB": PAPER_GB[name]}
            for name in names
            for batch in options.batches
        ]
        title = f"A training step of the published set-up, 256x256x160, {POINTS:,} points a case, {precision}"
        rows = [{"row": f"{row['network']}, batch {row['batch']}", **row} for row in rows if "peak GB" in row]
        report(f"training_batches_{kind}", title, rows, "peak GB")
        return
    sizes = [(side,) * 3 for side in options.sides]
    rows = [row_of(name, size, 1, options) for name in options.networks for size in sizes]
    rows = [row for row in rows if "peak GB" in row]
    full = [{"row": f"{row['network']}, {row['size']}", **row} for row in rows]
    report(f"training_{kind}", f"A training step on one image with four modalities, {precision}", full, "peak GB")
    plot(f"training_{kind}_memory.png", rows)


if __name__ == "__main__":
    main()

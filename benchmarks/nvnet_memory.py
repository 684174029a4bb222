"""Memory and time of a training step of NvNet at the paper's size, with and without bfloat16 and checkpointing.

Each configuration is measured in a process of its own, and estimated by PyTorch's memory tracker on fake tensors, which
costs nothing and holds for any machine whose convolutions need no workspace.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from typing import Any

import torch
from _memory import PeakMemory
from _report import report
from memory import RETURN_FREED
from monai.networks.nets import SegResNetVAE
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from custom_nets.losses import gaussian_kl
from custom_nets.networks import NvNet, NvNetOutput, NvNetSettings

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "NvNet": {},
    "NvNet, bfloat16": {"bfloat16": True},
    "NvNet, checkpointing": {"checkpointing": True},
    "NvNet, bfloat16, checkpointing": {"bfloat16": True, "checkpointing": True},
    "NvNet, no variational branch": {"vae": False},
    "NvNet, inference": {"vae": False, "inference": True},
    "MONAI's SegResNetVAE": {"monai": True},
    "MONAI's SegResNetVAE, bfloat16": {"monai": True, "bfloat16": True},
}


def build(
    size: tuple[int, ...],
    filters: int,
    checkpointing: bool = False,
    vae: bool = True,
    monai: bool = False,
    inference: bool = False,
) -> Any:
    """The network to be measured."""
    if monai:
        keys = {"init_filters": filters, "in_channels": 4, "out_channels": 3, "dropout_prob": 0.2}
        return SegResNetVAE(size, vae_estimate_std=True, **keys)
    network = NvNet(init_filters=filters, crop_size=size, vae=vae, settings=NvNetSettings(checkpointing=checkpointing))
    return network.eval() if inference else network


def loss_of(output: Any, image: Tensor, regions: Tensor) -> Tensor:
    """Soft Dice, reconstruction and divergence; MONAI's DiceLoss holds the same tensors, but runs on no fake ones."""
    if isinstance(output, NvNetOutput):
        logits, extra = output.logits, torch.zeros(())
        if output.reconstruction is not None and output.mean is not None and output.log_variance is not None:
            error = nn.functional.mse_loss(output.reconstruction.float(), image)
            extra = error + gaussian_kl(output.mean, output.log_variance, image[0, 0].numel())
    else:
        logits, extra = output  # SegResNetVAE computes its own
    p, t = logits.float().sigmoid(), regions.float()
    return 1 - 2 * (p * t).sum() / (p.square().sum() + t.square().sum() + 1e-5) + 0.1 * extra


def step(network: nn.Module, size: tuple[int, ...], device: torch.device, bfloat16: bool) -> None:
    """A forward and a backward pass of one crop; the forward pass alone of a network in evaluation."""
    image = torch.rand(1, 4, *size, device=device)
    if not network.training:
        with torch.no_grad():
            network(image)
        return
    regions = torch.ones(1, 3, *size, dtype=torch.uint8, device=device)
    with torch.autocast(device.type, torch.bfloat16) if bfloat16 else nullcontext():
        loss = loss_of(network(image), image, regions)
    loss.backward()


def estimate(size: tuple[int, ...], filters: int, bfloat16: bool = False, **keys: Any) -> float:
    """GiB at the peak of a step by PyTorch's tracker: parameters, gradients, activations; no data is computed."""
    with FakeTensorMode():
        network = build(size, filters, **keys)
        tracker = MemTracker()
        tracker.track_external(network)
        with tracker:
            step(network, size, torch.device("cpu"), bfloat16)
    return tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"] / 2**30


def measure(size: tuple[int, ...], filters: int, steps: int, bfloat16: bool = False, **keys: Any) -> dict[str, float]:
    """GiB at the peak, and seconds of the fastest step."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    memory = PeakMemory(device)
    # SegResNetVAE takes views that channels last do not allow.
    layout = torch.contiguous_format if keys.get("monai") else torch.channels_last_3d
    network = build(size, filters, **keys).to(device=device, memory_format=layout)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        step(network, size, device, bfloat16)
        if network.training:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return {"measured GiB": memory.mebibytes() / 1024, "step, s": min(seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--size", type=int, nargs=3, default=(160, 192, 128), help="the crop")
    parser.add_argument("--filters", type=int, default=32)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--one", help="measure this configuration in this process")
    options = parser.parse_args()
    size = tuple(options.size)
    if options.one:
        print(json.dumps(measure(size, options.filters, options.steps, **CONFIGURATIONS[options.one])))
        return
    rows = []
    for name, keys in CONFIGURATIONS.items():
        row: dict[str, Any] = {"configuration": name, "estimated GiB": estimate(size, options.filters, **keys)}
        command = [sys.executable, "-W", "ignore", __file__, "--size", *map(str, size), "--one", name]
        command += ["--filters", str(options.filters), "--steps", str(options.steps)]
        done = subprocess.run(
            command, env={**os.environ, **RETURN_FREED}, stdout=subprocess.PIPE, text=True, check=True
        )
        row |= json.loads(done.stdout.splitlines()[-1])
        rows.append(row)
        print(row, flush=True)
    for row in rows:
        row["memory, times NvNet"] = row["measured GiB"] / rows[0]["measured GiB"]
        row["time, times NvNet"] = row["step, s"] / rows[0]["step, s"]
    crop = "x".join(str(side) for side in size)
    title = f"A training step on one crop of {crop} with four modalities, {options.filters} filters, Adam"
    report("nvnet_memory", title, rows, "measured GiB")


if __name__ == "__main__":
    main()

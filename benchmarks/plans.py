"""What `custom-nets new` plans for well-known data sets, from their headers alone; and what a planned step takes.

With --measure, steps of training of the plans are made, each in a process of its own, and the growth of that process
is compared with the estimate. The two tables are written to docs/plans.md.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from custom_nets.losses import OccupancyLoss
from custom_nets.networks import PyramidOSSNet, PyramidSettings
from custom_nets.tools.planning.examples import example_fingerprints
from custom_nets.tools.planning.plan import make_plan

PAGE = Path(__file__).parents[1] / "docs" / "plans.md"
BEGIN, END = "<!-- {}: begin -->\n", "<!-- {}: end -->"


def table(rows: list[list[Any]], head: list[str]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)


def write(name: str, text: str) -> None:
    """Puts a table between its marks in the page."""
    begin, end = BEGIN.format(name), END.format(name)
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    PAGE.write_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def plan_row(name: str, memory: float) -> list[Any]:
    """A line of the table of plans."""
    plan = make_plan(example_fingerprints()[name], "ossnet", memory)
    keys = plan.keys
    images = f"{keys['spacing']} mm" if "spacing" in keys else "any size"
    size = "x".join(map(str, keys["image_size"])) if "image_size" in keys else images
    down = keys["downsampling"] if "downsampling" in keys else f"to {'x'.join(map(str, keys['grid_size']))}"
    return [
        name,
        f"{memory:g}",
        size,
        "x".join(map(str, down)) if isinstance(down, list) else down,
        len(keys["channels"]),
        keys["num_points"],
        keys["batch_size"],
        keys["epochs"],
        f"{plan.training_memory:.2f}",
        f"{plan.inference_memory:.1f}",
    ]


def growth(name: str, memory: float) -> float:
    """GiB by which this process grows over two steps of training of the plan."""
    data, plan = example_fingerprints()[name], make_plan(example_fingerprints()[name], "ossnet", memory)
    keys = plan.keys
    network = PyramidOSSNet(
        len(data.channels),
        len(data.regions),
        downsampling=keys["downsampling"],
        channels=keys["channels"],
        settings=PyramidSettings(depths=keys["depths"]),
    )
    size, batch = keys["image_size"], keys["batch_size"]
    optimizer = torch.optim.AdamW(network.parameters())
    loss = OccupancyLoss()
    warm_up = torch.zeros(1, len(data.channels), *[16] * 3)
    network(warm_up, torch.zeros(1, 8, 3, dtype=torch.int64))[0].mean().backward()  # libraries are loaded
    network.zero_grad()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    image = torch.randn(batch, len(data.channels), *size)
    dense = (image[:, :1] > 1).float().expand(-1, len(data.regions), -1, -1, -1)
    auxiliary = torch.nn.functional.max_pool3d(dense, 8, ceil_mode=True)
    uncertain = keys["num_points"] // 4  # chosen by the network among three times as many, as in the bundles
    for _ in range(2):
        drawn = keys["num_points"] + 2 * uncertain
        points = torch.stack([torch.randint(side, (batch, drawn)) for side in size], dim=-1)
        labels = (torch.rand(batch, drawn, len(data.regions)) > 0.5).float()
        logits, auxiliary_logits, chosen = network(image, points, candidates=3 * uncertain, uncertain=uncertain)
        labels = labels.gather(1, chosen[..., None].expand(-1, -1, labels.shape[-1]))
        loss((logits, auxiliary_logits), (labels, auxiliary)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--memory", type=float, nargs="+", default=[4.0, 80.0], help="GiB of the devices")
    parser.add_argument("--measure", nargs="*", help="names of data sets whose step is measured, at 8 GiB")
    parser.add_argument("--growth", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.growth:
        print(json.dumps(growth(options.growth, 8.0)))
        return
    if options.measure is None:
        rows = [plan_row(name, memory) for name in example_fingerprints() for memory in options.memory]
        head = [
            "data",
            "GiB",
            "images",
            "downsampling",
            "levels",
            "points",
            "batch",
            "epochs",
            "step, GiB",
            "inference, GiB",
        ]
        write("plans", table(rows, head))
        return
    rows = []
    for name in options.measure:
        command = [sys.executable, __file__, "--growth", name]
        measured = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        estimated = make_plan(example_fingerprints()[name], "ossnet", 8.0).training_memory
        rows.append([name, f"{estimated:.2f}", f"{measured:.2f}", f"{100 * (estimated / measured - 1):+.0f} %"])
    write("memory", table(rows, ["data", "estimated, GiB", "measured, GiB", "difference"]))


if __name__ == "__main__":
    main()

"""Inference by search, network and size: seconds, queries, peak memory, agreement with every voxel queried.

Each row is measured in a process of its own, on a volume of noise with a ball for an answer (`_ball.py`). "original" is
the published algorithm as published (`_original.py`), "published" the same search with this project's decoder and
chunks. Beside them MONAI's convolutional networks on the same volume. What would take longer than the budget is
extrapolated: from the cost of some chunks of points or some windows, and the number of them; such rows say so.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from _ball import NETWORKS, VOLUMES, BallNetwork, build_network
from _memory import PeakMemory, resident
from _original import CHUNK, Original, dilate
from _report import report
from monai.data.utils import dense_patch_slices
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import SegResNet, UNet
from torch import Tensor, nn

from custom_nets.inferers import OccupancyInferer, SearchSettings

SEARCHES: dict[str, dict[str, Any]] = {
    "surface, step 8": {"mode": "surface", "coarse_step": 8},
    "surface, step 4": {"mode": "surface", "coarse_step": 4},
    "surface, step 8, no prior": {"mode": "surface", "coarse_step": 8, "prior": "none"},
    "surface, step 4, no prior": {"mode": "surface", "coarse_step": 4, "prior": "none"},
    "published": {"mode": "published"},
    "dense": {"mode": "dense"},
}
"""Settings of the search; unless they say otherwise the prior restricts the search, where the network has one."""

CONVOLUTIONAL = ("UNet, whole", "SegResNet 8, whole", "SegResNet 8, windows", "SegResNet 16, windows")
WINDOW, OVERLAP = 128, 0.25


def measure(size: str, network: str, method: str, options: argparse.Namespace) -> dict[str, Any]:
    """One row."""
    device = torch.device(options.device)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    volume = VOLUMES[size]
    torch.manual_seed(0)
    image = torch.randn(1, volume.channels, *volume.shape, device=device)
    run = Run(device, options)
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=options.half and device.type == "cuda"):
        if method in CONVOLUTIONAL:
            run.convolutional(method, image)
        else:
            ball = BallNetwork(build_network(network, volume), volume).to(device)
            run.original(ball, image) if method == "original" else run.search(ball, image, method)
    return {"size": size, "network": network, "method": method, **run.row}


class Run:
    """Measures one method within a budget of seconds."""

    def __init__(self, device: torch.device, options: argparse.Namespace) -> None:
        self.device = device
        self.budget, self.repeats = options.budget, options.repeats
        self.dtype = torch.bfloat16 if options.half else None
        self.row: dict[str, Any] = {}

    def search(self, ball: BallNetwork, image: Tensor, method: str) -> None:
        """A search of ours."""
        alone = self._without_network(ball, image)
        prior = "none" if alone.cells is None else "restrict"
        inferer = OccupancyInferer(SearchSettings(**{"prior": prior, **SEARCHES[method]}), decoder_dtype=self.dtype)

        def infer(network: nn.Module) -> Tensor:
            return (inferer(image, network)[0, 0] > 0.5).to(torch.uint8)

        queries, searching = image[0, 0].numel(), 0.0
        if method != "dense":
            _, searching = self._timed(lambda: infer(alone), times=1)
            queries = inferer.stats.queries
        chunk = inferer.chunk.choose(ball, self.device)
        a_point = self._seconds_per_point(ball.prepare_decoder(ball.encode(image), image, self.dtype), chunk, ball)
        if a_point * queries > self.budget:
            _, encoding = self._timed(lambda: ball.encode(image), times=1)
            self._extrapolated(encoding + searching + a_point * queries, queries, f"{5 * chunk:,} points")
            return
        label = self._measured(lambda: infer(ball))
        stats = inferer.stats
        self.row |= {"encode": stats.encode_seconds, "decode": stats.decode_seconds, "search": stats.search_seconds}
        self.row |= {"queries": stats.queries, "differ": int((label.bool() != ball.truth()).sum())}

    def original(self, ball: BallNetwork, image: Tensor) -> None:
        """The published algorithm as published."""
        original = Original(ball)
        counter = OccupancyInferer(SearchSettings("published", prior="restrict"))
        counter(image, self._without_network(ball, image))
        queries = counter.stats.queries
        vectors = ball.encode(image).vectors[0]

        def decode(points: Tensor) -> Tensor:
            return original.decode(vectors, points[0], original.gather(image, points[0]))

        a_point = self._seconds_per_point(decode, CHUNK, ball)
        if a_point * queries > self.budget:
            _, encoding = self._timed(lambda: ball.encode(image), times=1)
            _, dilating = self._timed(
                lambda: [dilate(torch.zeros_like(image[:, :1]), side) for side in (9, 3)], times=1
            )
            self._extrapolated(encoding + dilating + a_point * queries, queries, f"{5 * CHUNK:,} points")
            return
        label = self._measured(lambda: original(image))
        self.row |= {"queries": sum(original.queries), "differ": int((label.bool() != ball.truth()).sum())}

    def _without_network(self, ball: BallNetwork, image: Tensor) -> BallNetwork:
        segmentation = ball.encode(image).segmentation
        cells = None if segmentation is None else tuple(segmentation.shape[2:])
        return BallNetwork(None, ball.volume, cells).to(self.device)

    def convolutional(self, method: str, image: Tensor) -> None:
        """A convolutional network of MONAI's, on the whole volume or in windows."""
        name, _, how = method.partition(", ")
        channels = image.shape[1]
        if name == "UNet":
            keys: dict[str, Any] = {"channels": (16, 32, 64, 128, 256), "strides": (2, 2, 2, 2), "num_res_units": 2}
            network: nn.Module = UNet(3, channels, 1, **keys)
        else:
            network = SegResNet(3, int(name.split()[1]), channels, 1)
        network = network.to(self.device).eval()
        if how == "whole":
            self._measured(lambda: network(image).sigmoid() > 0.5)
            return
        window = image[..., :WINDOW, :WINDOW, :WINDOW].contiguous()
        _, a_window = self._timed(lambda: network(window))
        interval = int(WINDOW * (1 - OVERLAP))
        windows = len(dense_patch_slices(image.shape[2:], (WINDOW,) * 3, (interval,) * 3))
        if a_window * windows > self.budget:
            self._extrapolated(a_window * windows, 0, f"3 of {windows} windows")
            return
        inferer = SlidingWindowInferer((WINDOW,) * 3, overlap=OVERLAP)
        self._measured(lambda: inferer(image, network).sigmoid() > 0.5)

    def _seconds_per_point(self, decode: Callable[[Tensor], Tensor], chunk: int, ball: BallNetwork) -> float:
        """The mean over chunks of voxels that lie together, as those of a search do."""
        points = ball.truth()[: ball.volume.shape[0] // 2 + 8].nonzero()[-chunk:]
        points = points.repeat(-(-chunk // len(points)), 1)[:chunk]
        return self._timed(lambda: decode(points[None]), times=4)[1] / chunk

    def _timed(self, function: Callable[[], Any], times: int = 2) -> tuple[Any, float]:
        """The result and the fastest of some runs, after one that warms up."""
        function()
        seconds = []
        for _ in range(times):
            start = time.perf_counter()
            result = function()
            self._synchronize()
            seconds.append(time.perf_counter() - start)
        return result, min(seconds)

    def _measured(self, function: Callable[[], Any]) -> Any:
        """The result of a method that is run as a whole; its median time and the peak of memory go into the row."""
        start = time.perf_counter()
        function()
        self._synchronize()
        repeats = self.repeats if time.perf_counter() - start < 20 else 1
        PeakMemory(self.device)  # forgets the peak so far
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            result = function()
            self._synchronize()
            seconds.append(time.perf_counter() - start)
        self.row["seconds"] = statistics.median(seconds)
        # On a CPU all that the process holds, Python and PyTorch included; on a GPU all tensors.
        on_cpu = self.device.type == "cpu"
        self.row["peak GiB"] = (resident("VmHWM") if on_cpu else torch.cuda.max_memory_allocated()) / 2**30
        return result

    def _extrapolated(self, seconds: float, queries: int, part: str) -> None:
        self.row |= {"seconds": seconds, "extrapolated from": part}
        if queries:
            self.row["queries"] = queries

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def rows_of(options: argparse.Namespace) -> list[tuple[str, str, str]]:
    """Size, network and method of each row."""
    rows = []
    for size in options.sizes:
        for network in options.networks:
            methods = [m for m in options.methods if m in SEARCHES or (m == "original" and network in ("c", "d"))]
            rows += [(size, network, method) for method in methods]
        rows += [(size, method.partition(",")[0], method) for method in options.methods if method in CONVOLUTIONAL]
    return rows


def measure_apart(size: str, network: str, method: str, options: argparse.Namespace) -> dict[str, Any]:
    """One row, measured in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "--one", size, network, method, "--device", options.device]
    command += ["--budget", str(options.budget), "--repeats", str(options.repeats), *["--half"] * options.half]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        return {"size": size, "network": network, "method": method, "extrapolated from": "failed: out of memory?"}
    row = json.loads(done.stdout.splitlines()[-1])
    print(row, flush=True)
    return row


COLUMNS = (
    "size",
    "network",
    "method",
    "seconds",
    "times C original",
    "encode",
    "decode",
    "search",
    "queries",
    "differ",
)
COLUMNS += ("peak GiB", "extrapolated from")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = ["original", *SEARCHES, *CONVOLUTIONAL]
    parser.add_argument("--sizes", nargs="+", default=["128", "brats"], choices=list(VOLUMES))
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--methods", nargs="+", default=every, choices=every)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--half", action="store_true", help="bfloat16 matrix products; on a GPU autocast")
    parser.add_argument("--budget", type=float, default=120.0, help="seconds of a row; beyond, it is extrapolated")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--name", help="of the result files; default: inference_DEVICE")
    parser.add_argument("--one", nargs=3, help="size, network and method: measure this in this process")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one, options)))
        return
    rows = [measure_apart(*which, options) for which in rows_of(options)]
    for row in rows:
        base = next((r for r in rows if (r["size"], r["network"], r["method"]) == (row["size"], "c", "original")), None)
        if base is not None and "seconds" in row:
            row["times C original"] = base["seconds"] / row["seconds"]
    precision = "bfloat16 decoder" if options.half else "float32"
    title = f"Inference, {precision}, a ball in noise; seconds (extrapolated where the last column says so)"
    full = [{column: row.get(column, "") for column in COLUMNS} for row in rows if "seconds" in row]
    for row in full:
        row["row"] = f"{row['size']}, {row['network']}, {row['method']}"
    report(options.name or f"inference_{options.device}", title, [{"row": r.pop("row"), **r} for r in full], "seconds")


if __name__ == "__main__":
    main()

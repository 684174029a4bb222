"""The inference of a bundle component by component, as its configs name them, and as its documented command."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from _memory import resident, restart_peak
from monai.bundle import ConfigParser
from monai.data import decollate_batch, list_data_collate
from monai.engines.utils import default_prepare_batch
from torch import nn

BUNDLES = Path(__file__).parent.parent / "bundles"
CACHE = Path(__file__).parent / ".cache"


class Stages:
    """Time and memory of one component after the other, over any number of cases."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        self.peaks: dict[str, float] = {}
        self.after: dict[str, float] = {}

    def measure(self, name: str, function: Callable[[], Any]) -> Any:
        """Runs a function, waits for the device, and counts it under a name."""
        restart_peak()
        start = time.perf_counter()
        result = function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.add(name, time.perf_counter() - start)
        return result

    def add(self, name: str, seconds: float) -> None:
        """Counts what was measured elsewhere."""
        self.seconds.setdefault(name, []).append(seconds)
        self.peaks[name] = max(self.peaks.get(name, 0), resident("VmHWM") / 2**30)
        self.after[name] = resident("VmRSS") / 2**30

    def split(self, name: str, parts: Mapping[str, float]) -> None:
        """Replaces the last run of a component by its parts, of which it knows the seconds itself."""
        self.seconds[name].pop()
        for part, seconds in parts.items():
            self.seconds.setdefault(part, []).append(seconds)
            self.peaks[part], self.after[part] = self.peaks[name], self.after[name]

    def rows(self) -> list[dict[str, Any]]:
        """One row a component: the first case, and the median of those after it (0 where it ran once only)."""
        return [
            {
                "component": name,
                "first case, s": seconds[0],
                "later cases, s": statistics.median(seconds[1:]) if len(seconds) > 1 else 0.0,
                "peak GiB": self.peaks[name],
                "GiB after": self.after[name],
            }
            for name, seconds in self.seconds.items()
            if seconds
        ]


def read_bundle(configs: Sequence[Path], keys: dict[str, Any]) -> ConfigParser:
    """Reads the configs of an inference with some keys replaced."""
    parser = ConfigParser()
    parser.read_config([str(path) for path in configs])
    parser.update(keys)
    return parser


def load_network(parser: ConfigParser) -> nn.Module:
    """Makes the network of an inference and loads its weights."""
    network: nn.Module = parser.get_parsed_content("network").eval()
    path = parser.get_parsed_content("load_model")
    network.load_state_dict(torch.load(path, weights_only=True))
    return network


def infer_case(parser: ConfigParser, stages: Stages, network: nn.Module) -> dict[str, Any]:
    """Runs the first case through the components of an inference, fed as MONAI's evaluator feeds them.

    Returns:
        The queries of the search and how long it took, and the voxels in the result.
    """
    get = parser.get_parsed_content
    device = torch.device(get("device"))
    item: Any = get("dataset").data[0]
    for transform in get("preprocessing").transforms:
        item = stages.measure(type(transform).__name__, lambda t=transform, i=item: t(i))
    batch: Any = stages.measure("collate", lambda: list_data_collate([item]))
    item = None
    batch["image"], _ = stages.measure("to the device", lambda: default_prepare_batch(batch, device))
    inferer = get("inferer")
    member = getattr(inferer, "inferer", inferer)  # of an ensemble
    mixed = torch.autocast("cuda", enabled=bool(get("amp")), dtype=get("amp_dtype"))
    with torch.no_grad(), mixed:
        batch["pred"] = stages.measure(type(member).__name__, lambda: inferer(batch["image"], network))
    stats = member.stats
    parts = {"encoding": stats.encode_seconds, "decoding": stats.decode_seconds, "searching": stats.search_seconds}
    stages.split(type(member).__name__, parts)
    (item,) = stages.measure("decollate", lambda: decollate_batch(batch))
    batch.clear()
    for transform in get("postprocessing").transforms:
        steps = getattr(transform, "transforms", [transform])
        for part in steps:
            item = stages.measure(type(part).__name__, lambda t=part, i=item: t(i))
    return {
        "queries": stats.queries,
        "stages": stats.queries_per_stage,
        "encode_s": stats.encode_seconds,
        "decode_s": stats.decode_seconds,
        "search_s": stats.search_seconds,
        "foreground": int((item["pred"] > 0).sum()),
    }


def run_command(configs: Sequence[Path], keys: dict[str, Any]) -> dict[str, float]:
    """Seconds and peak GiB of the documented command."""
    files = f"[{','.join(repr(str(path)) for path in configs)}]"
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "inferring", "--config_file", files]
    command += [f"--{name}={value}" for name, value in keys.items()]
    # A config may name what is in this folder.
    paths = [str(Path(__file__).parent), str(BUNDLES.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert process.stderr is not None
    errors = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        msg = f"the command ended with status {status}: {' '.join(command)}\n{errors[-2000:]}"
        raise RuntimeError(msg)
    return {"s": time.perf_counter() - start, "peak GiB": usage.ru_maxrss / 2**20}

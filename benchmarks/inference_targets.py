"""What inference must show: ratios and absolute figures beside their targets, all measured in one run.

The rows are those of `inference.py`, only the ones that the targets need. On a CPU each has a process of its own; on a
GPU they share one, whose peak of memory is reset before each. Two tables are written, the targets and the rows.
"""

from __future__ import annotations

import argparse
import gc
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from _ball import VOLUMES
from _report import report
from inference import COLUMNS, measure, measure_apart

Key = tuple[str, str, str]
Rows = Mapping[Key, Mapping[str, Any]]

SURFACE = "surface, step 8"
ORIGINAL = ("brats", "c", "original")
C, D, PYRAMID = (("brats", network, SURFACE) for network in ("c", "d", "pyramid"))
LARGE_ORIGINAL, LARGE_C, LARGE_PYRAMID = (
    ("512", "c", "original"),
    ("512", "c", SURFACE),
    ("512", "pyramid", SURFACE),
)
SMALL_C = ("128, one channel", "c", SURFACE)
SEGRESNET = ("brats", "SegResNet 16", "SegResNet 16, windows")
LARGE_SEGRESNET = ("512", "SegResNet 8", "SegResNet 8, windows")


class Target(NamedTuple):
    """A figure and its limit.

    Attributes:
        what: in words, with the unit.
        rows: what it is made of.
        figure: from these rows, in their order.
        limit: of the figure.
        at_least: whether the figure must reach the limit, or stay within it.
        of_cores: whether the limit is meant for two CPU cores; elsewhere the figure is shown and not judged.
    """

    what: str
    rows: tuple[Key, ...]
    figure: Callable[..., float]
    limit: float
    at_least: bool = False
    of_cores: bool = False


def faster(what: str, slow: Key, fast: Key, limit: float, of_cores: bool = False) -> Target:
    """The target of a ratio of times."""
    ratio: Callable[..., float] = lambda a, b: a["seconds"] / b["seconds"]  # noqa: E731
    return Target(f"{what}, times faster", (slow, fast), ratio, limit, at_least=True, of_cores=of_cores)


def peak(what: str, row: Key, limit: float, size: str | None = None) -> Target:
    """The target of a peak of memory, above the input of that size if one is named."""
    above = 0.0 if size is None else VOLUMES[size].channels * math.prod(VOLUMES[size].shape) * 4 / 2**30
    return Target(f"{what}, peak GiB", (row,), lambda a: a["peak GiB"] - above, limit)


RATIOS = (
    faster("C at 256x256x160: surface than the original form", ORIGINAL, C, 12, of_cores=True),
    faster("D at 256x256x160: surface than the original form", ("brats", "d", "original"), D, 20, of_cores=True),
    faster("Pyramid OSS-Net at 256x256x160 than the original form of C", ORIGINAL, PYRAMID, 25, of_cores=True),
    faster("Pyramid OSS-Net at 256x256x160 than SegResNet 16 in windows", SEGRESNET, PYRAMID, 10),
    faster("Pyramid OSS-Net at 512^3 than SegResNet 8 in windows", LARGE_SEGRESNET, LARGE_PYRAMID, 6),
    faster("C at 512^3: surface than the original form", LARGE_ORIGINAL, LARGE_C, 20),
    Target("C from 128^3 to 512^3, times the decoding", (SMALL_C, LARGE_C), lambda a, b: b["decode"] / a["decode"], 20),
)
MEMORY = (
    peak("C at 256x256x160, the whole process", C, 1.3),
    peak("D at 256x256x160, the whole process", D, 1.3),
    peak("Pyramid OSS-Net at 512^3, the process above its input", LARGE_PYRAMID, 4.0, "512"),
)
ON_A_GPU = (
    Target("C at 256x256x160, image to label map on the device, ms", (C,), lambda a: 1000 * a["seconds"], 60),
    Target("C at 512^3, image to label map on the device, ms", (LARGE_C,), lambda a: 1000 * a["seconds"], 300),
)


def measured(keys: Iterable[Key], options: argparse.Namespace) -> dict[Key, dict[str, Any]]:
    """The rows that were measured, or extrapolated; none for what did not fit into memory."""
    rows = {}
    for key in keys:
        row = measure_apart(*key, options) if options.device == "cpu" else measure_here(key, options)
        if "seconds" in row:
            rows[key] = row
    return rows


def measure_here(key: Key, options: argparse.Namespace) -> dict[str, Any]:
    """One row, measured in this process: a GPU's memory is counted by tensors, and starting a process costs seconds."""
    try:
        row = measure(*key, options)
    except torch.OutOfMemoryError as error:
        row = {"failed": str(error).partition(".")[0]}
    # Outside of the handler, whose traceback holds the activations.
    gc.collect()
    torch.cuda.empty_cache()
    print(key, row, flush=True)
    return row


def judged(target: Target, rows: Rows, on_cores: bool = True) -> dict[str, Any]:
    """A row of the table of targets."""
    parts = [rows[key] for key in target.rows if key in rows]
    figure: float | None = None
    if len(parts) == len(target.rows):
        with suppress(KeyError):  # an extrapolated row has no parts of its time and no peak
            figure = target.figure(*parts)
    better = 0.0
    if figure is not None:
        better = figure / target.limit if target.at_least else target.limit / figure
    met = "not measured" if figure is None else ("yes" if better >= 1 else "NO")
    limit = f"{'at least' if target.at_least else 'at most'} {target.limit:g}"
    if target.of_cores and not on_cores:
        met, limit = "-", f"{limit} on two cores"
    return {
        "target": target.what,
        "figure": "-" if figure is None else figure,
        "limit": limit,
        "met": met,
        "seconds": " / ".join(f"{part['seconds']:.3g}" for part in parts),
        "extrapolated from": "; ".join(part["extrapolated from"] for part in parts if part.get("extrapolated from")),
        "times better than the limit": better,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--half", action="store_true", help="bfloat16 matrix products; on a GPU autocast")
    parser.add_argument("--budget", type=float, help="seconds of a row; beyond, it is extrapolated (CPU 120, GPU 15)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sizes", nargs="+", default=["brats", "512"], choices=["brats", "512"], help="of the targets")
    parser.add_argument("--name", help="of the result files; default: inference_targets_DEVICE")
    options = parser.parse_args()
    on_gpu = options.device != "cpu"
    options.name = options.name or f"inference_targets_{options.device}"
    options.budget = options.budget or (15.0 if on_gpu else 120.0)
    targets = [
        target
        for target in (ON_A_GPU + RATIOS if on_gpu else RATIOS + MEMORY)
        if {size for size, *_ in target.rows} <= {*options.sizes, SMALL_C[0]}
    ]
    # The row that most targets share comes first: the others are divided by it while the machine is as it was.
    rows = measured(dict.fromkeys(key for target in targets for key in target.rows), options)
    how = "bfloat16 decoder" if options.half else "float32"
    title = f"What inference must show, {how}, a ball in noise"
    report(options.name, title, [judged(target, rows, not on_gpu) for target in targets], "times better than the limit")
    title = f"The rows behind the targets of inference, {how}, a ball in noise"
    columns = [column for column in COLUMNS if column not in ("size", "network", "method", "times C original")]
    full = [{"row": ", ".join(key), **{column: row.get(column, "") for column in columns}} for key, row in rows.items()]
    report(f"{options.name}_rows", title, full, "seconds")


if __name__ == "__main__":
    main()

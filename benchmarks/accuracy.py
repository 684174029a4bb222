"""Occupancy and convolutional networks on a hard synthetic cohort, under equal time and under equal epochs.

Each run trains in a process of its own with one thread; its budget is CPU time, so that runs beside each other, or
another program, take nothing from it. On a GPU it is wall time. Results of finished runs are kept: an interrupted
comparison goes on where it was.
"""

from __future__ import annotations

import json
from typing import Any

from _compare import argument_parser, make_runs, summarise
from _methods import BATCHED, METHODS
from _report import RESULTS, report
from _runs import run_all
from monai.utils import optional_import


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--equal", nargs="+", choices=["time", "epochs"], default=["time", "epochs"])
    options = parser.parse_args()
    cohort = f"{options.train} training and {options.test} test cases, {options.seeds} seeds"
    budgets = {
        "time": (options.seconds, None, f"Equal time ({options.seconds:.0f} s of one core)"),
        "epochs": (None, options.epochs, f"Equal epochs ({options.epochs})"),
    }
    for equal in options.equal:
        name, (seconds, epochs, title) = f"accuracy_{equal}", budgets[equal]
        # Under equal epochs all see the same images, and two a step are half the steps.
        names = options.methods or [*METHODS, *(BATCHED if equal == "time" else ())]
        runs = make_runs(options, names, seconds, epochs)
        rows = summarise(run_all(runs, options.jobs, options.threads, options.fresh))
        report(name, f"{title}, {cohort}", rows, "test mean Dice")
        plot_against_memory(name, title, rows)


def plot_against_memory(name: str, title: str, rows: list[dict[str, Any]]) -> None:
    """Draws Dice against the memory of training at full size, as `memory.py` measured it."""
    figure_module, found = optional_import("matplotlib.figure")
    measured = RESULTS / "memory.json"
    if not found or not measured.exists():
        return
    memory = {row["method"]: row["training MiB"] for row in json.loads(measured.read_text())["rows"]}
    figure = figure_module.Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    rows = [row for row in rows if row["method"] in memory]
    for index, row in enumerate(sorted(rows, key=lambda row: memory[row["method"]])):
        x, y = memory[row["method"]], row["test mean Dice"]
        ours = row["method"].startswith("Pyramid")
        axes.errorbar(x, y, yerr=row["spread"], fmt="o", color="#D55E00" if ours else "#0072B2", capsize=3)
        axes.annotate(row["method"], (x, y), xytext=(6, (5, -12)[index % 2]), textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel("memory of one training step on a 160x192x160 case, MiB")
    axes.set_ylabel("mean Dice of WT, TC, ET on the test cohort")
    axes.set_title(title, fontsize=10)
    axes.margins(x=0.2, y=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(RESULTS / f"{name}_memory.png", dpi=110)


if __name__ == "__main__":
    main()

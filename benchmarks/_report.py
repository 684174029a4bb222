"""What every benchmark shares: timing in turn, and a table, a JSON file and a plot of the results."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from _readme import refresh
from monai.utils import optional_import

RESULTS = Path(__file__).parent / "results"


def hardware() -> str:
    """Names what the numbers were measured on."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"{platform.machine()} CPU, {os.cpu_count()} cores, torch {torch.__version__}"


def commit() -> str:
    """What the checkout stands at, "-dirty" where more than results has changed since; "unknown" outside of one."""
    try:
        number = _git("rev-parse", "--short", "HEAD")
        # The results of one benchmark must not make the next one dirty, nor the README that shows them.
        others = [":/", ":(top,exclude)benchmarks/results", ":(top,exclude)benchmarks/README.md"]
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", *others)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{number}-dirty" if changed else number


def _git(*arguments: str) -> str:
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    keys = {"cwd": Path(__file__).parent, "env": environment, "capture_output": True, "text": True}
    return subprocess.run(["git", *arguments], check=True, **keys).stdout.strip()  # type: ignore[call-overload]


def median_seconds(runs: Mapping[str, Callable[[], Any]], repeats: int, warmup: int = 1) -> dict[str, float]:
    """Times functions in turn (A B A B …), so that a change of the machine's speed meets all of them alike."""
    for _ in range(warmup):
        for function in runs.values():
            function()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, function in runs.items():
            start = time.perf_counter()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def report(name: str, title: str, rows: Sequence[Mapping[str, Any]], bar: str) -> None:
    """Prints a table, writes `results/<name>.json`, `.md` and `.png`, and puts it into the README.

    Args:
        name: of the files.
        title: what was measured, with its sizes.
        rows: one a method; the first entry is its name.
        bar: the column that the plot shows.
    """
    RESULTS.mkdir(exist_ok=True)
    columns = list(rows[0])
    made = {"hardware": hardware(), "date": str(date.today()), "commit": commit()}
    lines = [
        f"{title}. {made['hardware']}, {made['date']}, commit {made['commit']}.",
        "",
        f"| {' | '.join(columns)} |",
        f"|{' --- |' * len(columns)}",
    ]
    lines += [f"| {' | '.join(_cell(row[column]) for column in columns)} |" for row in rows]
    print("\n".join(lines))
    (RESULTS / f"{name}.md").write_text("\n".join(lines) + "\n")
    facts = {"title": title, **made, "rows": list(rows)}
    (RESULTS / f"{name}.json").write_text(json.dumps(facts, indent=2) + "\n")
    _plot(RESULTS / f"{name}.png", title, [str(row[columns[0]]) for row in rows], [row[bar] for row in rows], bar)
    refresh()


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _plot(path: Path, title: str, names: Sequence[str], values: Sequence[float], label: str) -> None:
    figure_module, found = optional_import("matplotlib.figure")
    if not found:
        return
    figure = figure_module.Figure(
        figsize=(8, 0.8 + (0.5 if len(names) < 20 else 0.2) * len(names)), layout="constrained"
    )
    axes = figure.subplots()
    axes.barh(list(names)[::-1], list(values)[::-1], color="#56B4E9")
    if min(values) > 0 and max(values) > 100 * min(values):
        axes.set_xscale("log")
    axes.margins(y=0.5 / len(names))
    axes.set_xlabel(label)
    figure.suptitle(textwrap.fill(title, 110), fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)

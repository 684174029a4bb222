"""What comparisons on the cohort share: their options, their runs, and a row for each method."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from _runs import Run

REGIONS = ("WT", "TC", "ET")


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """Options of a comparison; the defaults finish in an hour or two on two cores."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--methods", nargs="+", help="some of them; default all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=200.0, help="training of each, CPU time of one core")
    parser.add_argument("--epochs", type=int, default=4, help="training of each, passes over the training cases")
    parser.add_argument("--shape", type=int, nargs=3, default=(96, 96, 64), help="voxels of the phantoms")
    parser.add_argument("--train", type=int, default=32)
    parser.add_argument("--test", type=int, default=16)
    parser.add_argument("--shifted", type=int, default=12)
    parser.add_argument("--cohort-seed", type=int, default=1, help="1: the phantoms were made harder looking at 0")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs beside each other")
    parser.add_argument("--threads", type=int, default=1, help="of each run")
    parser.add_argument("--fresh", action="store_true", help="do what was done before again")
    return parser


def make_runs(
    options: argparse.Namespace, methods: Sequence[str], seconds: float | None, epochs: int | None, **keys: Any
) -> list[Run]:
    """One run for each method and seed; all methods of a seed before the next seed."""
    sizes = {"train": options.train, "validation": 6, "test": options.test, "shifted": options.shifted}
    return [
        Run(method, seed, seconds, epochs, tuple(options.shape), sizes, options.cohort_seed, **keys)
        for seed in range(options.seeds)
        for method in methods
    ]


def summarise(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each method, in the order of their first runs: means over seeds, with the spread of the mean Dice."""
    rows = []
    for name in dict.fromkeys(result["method"] for result in results):
        runs = [result for result in results if result["method"] == name]
        dice = np.array([_mean(run, "test", "dice") for run in runs])  # [seeds, regions]
        means = dice.mean(axis=1)
        row: dict[str, Any] = {
            "method": name,
            "seeds": len(runs),
            "steps": round(np.mean([run["steps"] for run in runs])),
        }
        row |= {f"test {region}": float(value) for region, value in zip(REGIONS, dice.mean(axis=0), strict=True)}
        row["test mean Dice"] = float(means.mean())
        row["spread"] = float(means.std(ddof=1)) if len(runs) > 1 else 0.0
        row["lesions < 1 ml"] = float(np.mean([_mean(run, "test", "small").mean() for run in runs]))
        row["HD95 WT, mm"] = float(np.mean([_mean(run, "test", "hd95")[0] for run in runs]))
        row["shifted mean Dice"] = float(np.mean([_mean(run, "shifted", "dice").mean() for run in runs]))
        row["inference s"] = float(np.mean([run["inference s"] for run in runs]))
        rows.append(row)
    return rows


def _mean(run: dict[str, Any], part: str, score: str) -> np.ndarray:
    """Mean over the cases of a cohort, for each region; a case without what is scored is left out."""
    return np.nanmean(np.array([case[score] for case in run["scores"][part]], dtype=float), axis=0)

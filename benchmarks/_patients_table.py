"""Sums up the lines of `patients.py`: a row for each method, with its difference from another on the same patients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

RESAMPLES = 10_000


def summarise(rows: Sequence[dict[str, Any]], against: str | None, part: str = "held out") -> list[dict[str, Any]]:
    """A row for each method, in the order of their first lines.

    Args:
        rows: lines of one data set and one budget.
        against: a method; the others' differences from it are taken on the patients, folds and seeds that both have.
        part: of the patients.
    """
    rows = [row for row in rows if row["part"] == part]
    table = []
    base = _dice_of(rows, against) if against else {}
    for name in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == name]
        runs = _dice_of(rows, name)
        dice = np.array(list(_by_patient(runs).values()))  # [patients, regions]
        means = dice.mean(axis=1)
        line: dict[str, Any] = {
            "method": name,
            "patients": len(dice),
            "runs": len({(row["fold"], row["seed"]) for row in own}),
            "steps": round(np.mean([row["steps"] for row in own])),
            "Dice": " / ".join(f"{value:.3f}" for value in dice.mean(axis=0)),
            "95 %": _interval(means),
            "median": float(np.median(means)),
            "worst tenth": float(np.sort(means)[: max(len(means) // 10, 1)].mean()),
            "below .1": int((means < 0.1).sum()),
            "HD95": float(np.mean([row["hd95"] for row in own])),
            "inference s": float(np.mean([row["inference s"] for row in own])),
        }
        if memory := [row["peak MiB"] for row in own if "peak MiB" in row]:
            line["MiB"] = max(memory)
        if against:
            shared = [run for run in runs if run in base]
            line |= {"difference": "", "its 95 %": "", "p": ""}
            if shared and name != against:
                ours, theirs = (_by_patient({run: part[run] for run in shared}) for part in (runs, base))
                difference = np.array([(ours[patient] - theirs[patient]).mean() for patient in ours])
                line["difference"] = f"{difference.mean():+.3f} of {len(difference)}"
                line["its 95 %"] = _interval(difference, "+.3f")
                line["p"] = f"{stats.wilcoxon(difference).pvalue:.2g}" if np.any(difference) else "1"
        table.append(line)
    return table


def _dice_of(rows: Sequence[dict[str, Any]], method: str) -> dict[tuple[str, int, int], NDArray[np.float64]]:
    """Dice `[R]` of a method by patient, number of folds and seed."""
    return {
        (row["patient"], row["folds"], row["seed"]): np.array(row["dice"]) for row in rows if row["method"] == method
    }


def _by_patient(runs: dict[tuple[str, int, int], NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """Means over the runs of each patient."""
    names = dict.fromkeys(run[0] for run in runs)
    return {name: np.mean([dice for run, dice in runs.items() if run[0] == name], axis=0) for name in names}


def _interval(values: NDArray[np.float64], form: str = ".3f") -> str:
    """Of the mean, by bootstrap over patients."""
    drawn = np.random.RandomState(0).randint(0, len(values), (RESAMPLES, len(values)))
    low, high = np.percentile(values[drawn].mean(axis=1), [2.5, 97.5])
    return f"{low:{form}} .. {high:{form}}"

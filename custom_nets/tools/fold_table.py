"""The scores of a cross-validation: a line a fold, all folds together, and an ensemble of them against each one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from custom_nets.datasets.splits import fold_folders, load_folds
from custom_nets.errors import InputError, first_names
from custom_nets.io.files import parse_json_object

_ADVICE = "run the evaluation of each fold first (run evaluating, --fold 0, --fold 1, ...)"

Scores = dict[str, dict[str, float]]
"""Of each case: its regions, and their mean."""


def sum_up_folds(folder: str | Path, score: str = "dice") -> dict[str, Any]:
    """Sums up the evaluations of the folds of a bundle.

    Args:
        folder: of the bundle, or the one that holds `fold_0`, `fold_1` and so on.
        score: a column of metrics.json, such as dice, iou or hd95_mm.

    Returns:
        `score`; `regions`; `folds`, of the cases that each fold held out: `cases` and the mean of each region; `all`,
        the same over all cases; `spread`, the standard deviation of the folds' means (of a sample); and where each
        fold and their ensemble were scored on the test: `test`, one entry a fold and one for `ensemble`, with the mean
        of each region and the ensemble's `gain` over the fold and its `p` (Wilcoxon's signed-rank test over the means
        of the regions of each case).

    Raises:
        InputError: when no fold was evaluated, folds have other regions, or hold a case in common.
    """
    place = Path(folder)
    place = place / "eval" if (place / "eval").is_dir() else place
    found = fold_folders(place)
    held_out = {path.name: _read(path / "metrics.json", score) for path in found if (path / "metrics.json").is_file()}
    tested = {path.name: _read(path / "test" / "metrics.json", score) for path in found if (path / "test").is_dir()}
    if (place / "ensemble" / "metrics.json").is_file():
        tested["ensemble"] = _read(place / "ensemble" / "metrics.json", score)
    if not held_out and not tested:
        msg = f"{place}: holds no scores of folds (fold_*/metrics.json); {_ADVICE}"
        raise InputError(msg)
    _check_splits([path / "split.json" for path in found if (path / "split.json").is_file()])
    regions = _regions([*held_out.items(), *tested.items()])
    everything = {case: scores for part in held_out.values() for case, scores in part.items()}
    if len(everything) != sum(map(len, held_out.values())):
        msg = f"{place}: folds were scored on the same cases; evaluate each on what it held out (section validation)"
        raise InputError(msg)
    summary: dict[str, Any] = {"score": score, "regions": regions}
    if held_out:
        folds = {name: {"cases": len(part), **_means(part, regions)} for name, part in held_out.items()}
        summary["folds"] = folds
        summary["all"] = {"cases": len(everything), **_means(everything, regions)}
        if len(folds) > 1:
            summary["spread"] = {
                region: float(np.std([fold[region] for fold in folds.values()], ddof=1)) for region in regions
            }
    if tested:
        summary["test"] = _test_rows(tested, regions)
    return summary


def format_folds(summary: Mapping[str, Any]) -> str:
    """Returns the table of `sum_up_folds` for a terminal."""
    regions = summary["regions"]
    width = max(len(name) for name in ("ensemble", "spread", *summary.get("folds", ()), *summary.get("test", ())))
    columns = [max(len(region), 6) for region in regions]

    def line(name: str, cases: Any, numbers: Sequence[str], more: str = "") -> str:
        cells = "  ".join(number.rjust(column) for number, column in zip(numbers, columns, strict=True))
        return f"{name:<{width}}  {cases!s:>5}  {cells}{more}"

    def means(row: Mapping[str, Any]) -> list[str]:
        return [f"{row[region]:.3f}" for region in regions]

    lines = []
    if "folds" in summary:
        lines.append(f"{summary['score']} of the cases that each fold held out, mean")
        lines.append(line("", "cases", regions))
        lines += [line(name, row["cases"], means(row)) for name, row in summary["folds"].items()]
        lines.append(line("all", summary["all"]["cases"], means(summary["all"])))
        if "spread" in summary:
            lines.append(line("spread", "", means(summary["spread"])))
    if "test" in summary:
        lines += [""] if lines else []
        lines.append(f"{summary['score']} of the test, mean; gain of the ensemble over each fold")
        lines.append(line("", "cases", regions, "    gain      p"))
        for name, row in summary["test"].items():
            more = f"  {row['gain']:+.4f}  {row['p']:.1g}" if "gain" in row else ""
            lines.append(line(name, row["cases"], means(row), more))
    return "\n".join(lines)


def format_folds_json(summary: Mapping[str, Any]) -> str:
    """Returns what `sum_up_folds` gives as JSON."""
    return json.dumps(summary, indent=2) + "\n"


def _read(file: Path, score: str) -> Scores:
    if not file.is_file():
        msg = f"{file}: there is no such file; {_ADVICE}"
        raise InputError(msg)
    report = parse_json_object(file.read_bytes(), file, "evaluate this fold again")
    try:
        scores = {
            entry["case"]: {region: float(row[score]) for region, row in entry["regions"].items()}
            for entry in report["cases"]
        }
        return {case: {**rows, "mean": float(np.mean(list(rows.values())))} for case, rows in scores.items()}
    except KeyError as error:
        msg = f"{file}: holds no {error}; give a score that is a column of metrics.csv, such as dice"
        raise InputError(msg) from error
    except (TypeError, AttributeError, ValueError) as error:  # a score that is no number, as a volume without voxels
        msg = f"{file}: the {score} of a case is no number; choose another score, or evaluate this fold again"
        raise InputError(msg) from error


def _check_splits(files: Sequence[Path]) -> None:
    """Checks that all folds are of one division of the cases: else a model may be scored on what it was trained on."""
    splits = {file: load_folds(file) for file in files}
    for file, split in splits.items():
        if split != splits[files[0]]:
            msg = (
                f"{file}: divides the cases otherwise than {files[0]}; train all folds of one data set with one seed, "
                "one number of folds and one test"
            )
            raise InputError(msg)


def _regions(parts: Sequence[tuple[str, Scores]]) -> list[str]:
    found = [(name, list(next(iter(scores.values()), {}))) for name, scores in parts]
    first = found[0][1]
    others = [name for name, regions in found if regions != first]
    if others:
        msg = f"{first_names(others)}: other regions than {', '.join(first)}; evaluate all folds with the same regions"
        raise InputError(msg)
    return first


def _means(scores: Scores, regions: Sequence[str]) -> dict[str, float]:
    return {region: float(np.mean([rows[region] for rows in scores.values()])) for region in regions}


def _test_rows(tested: Mapping[str, Scores], regions: Sequence[str]) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    ensemble = tested.get("ensemble")
    for name, scores in tested.items():
        rows[name] = {"cases": len(scores), **_means(scores, regions)}
        if ensemble is None or name == "ensemble":
            continue
        if ensemble.keys() != scores.keys():
            msg = f"{name}: its test has other cases than the ensemble's; evaluate both with --evaluation_section test"
            raise InputError(msg)
        gains = np.array([ensemble[case]["mean"] - scores[case]["mean"] for case in scores])
        rows[name]["gain"] = float(gains.mean())
        rows[name]["p"] = float(stats.wilcoxon(gains).pvalue) if gains.any() else 1.0
    return rows

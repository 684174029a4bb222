"""The scores of an evaluation as a table of plain text."""

from __future__ import annotations

from pathlib import Path

from custom_nets.errors import InputError
from custom_nets.io.files import parse_json_object

_COUNTED = "lits_"  # columns of `count_detections`, which are summed over cases


def format_scores(file: str | Path) -> str:
    """Returns mean and median of each score by region, a line a score.

    Args:
        file: metrics.json, as the bundles' evaluation writes it.

    Raises:
        InputError: when there is no such file, or it is none of an evaluation.
    """
    path = Path(file)
    if not path.is_file():
        msg = f"{file}: there is no such file; run the evaluation of a bundle first"
        raise InputError(msg)
    report = parse_json_object(path.read_bytes(), file, "give the metrics.json of an evaluation")
    try:
        summary, cases = report["summary"], len(report["cases"])
        regions = list(summary)
        scores = [score for score in next(iter(summary.values()), {}) if not score.startswith(_COUNTED)]
        width = max(map(len, scores), default=0) + 2
        rows = [["", *regions], *([score, *(_cell(summary[region][score]) for region in regions)] for score in scores)]
        apart = max(len(cell) for row in rows for cell in row[1:]) + 2
        lines = [f"{cases} case{'s' * (cases != 1)}, mean (median)"]
        lines += [row[0].ljust(width) + "".join(cell.rjust(apart) for cell in row[1:]) for row in rows]
        lines += _detections(report["cases"], regions)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        msg = f"{file}: holds no scores ({type(error).__name__}: {error}); give the metrics.json of an evaluation"
        raise InputError(msg) from error
    return "\n".join(lines)


def _cell(numbers: dict[str, float | None]) -> str:
    """Returns mean and median; a dash where no case has the score."""
    mean, median = numbers["mean"], numbers["median"]
    return "-" if mean is None or median is None else f"{mean:.3f} ({median:.3f})"


def _detections(cases: list[dict], regions: list[str]) -> list[str]:
    """Returns lines on the detection of lesions, where it was counted, see `count_detections`."""
    lines = []
    for region in regions:
        rows = [case["regions"][region] for case in cases if f"{_COUNTED}lesions" in case["regions"].get(region, {})]
        if rows:
            names = ("lesions_detected", "lesions", "predicted_detecting", "predicted")
            found, wanted, right, predicted = (sum(int(row[_COUNTED + name]) for row in rows) for name in names)
            lines.append(
                f"{region}: {found} of {wanted} lesions detected, {right} of {predicted} predicted ones are right"
            )
    return ["detection (LiTS: IoU above 0.5)", *lines] if lines else []

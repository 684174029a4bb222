"""The scores of an evaluation as a table of plain text."""

from __future__ import annotations

from pathlib import Path

from custom_nets.errors import InputError
from custom_nets.io.files import parse_json_object


def format_scores(file: str | Path) -> str:
    """Returns mean and median of each score by region, a line a region.

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
        columns = list(next(iter(summary.values()), {}))
        lines = [f"{cases} cases, mean (median)", "region  " + "".join(column.rjust(20) for column in columns)]
        for region, numbers in summary.items():
            cells = (f"{numbers[c]['mean']:.3f} ({numbers[c]['median']:.3f})".rjust(20) for c in columns)
            lines.append("".join([region.ljust(8), *cells]))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        msg = f"{file}: holds no scores ({type(error).__name__}: {error}); give the metrics.json of an evaluation"
        raise InputError(msg) from error
    return "\n".join(lines)

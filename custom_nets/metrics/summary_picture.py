"""A picture of the scores of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from monai.utils import optional_import

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NEEDED = "{}; the picture of the scores needs matplotlib: pip install matplotlib"
_TITLES = {"dice": "Dice", "iou": "IoU", "hd95_mm": "HD95, mm"}
_WORST = 10


def draw_summary(report: Mapping[str, Any]) -> Figure:
    """Draws every case's scores by region, with their medians, and names the cases of the lowest mean Dice.

    Args:
        report: content of `metrics.json`, see `write_case_metrics`.

    Returns:
        A matplotlib figure outside pyplot's state: a row of Dice, IoU and HD95 (those that are there) above the worst
        cases.
    """
    make_figure, _ = optional_import("matplotlib.figure", name="Figure", descriptor=_NEEDED)
    canvas, _ = optional_import("matplotlib.backends.backend_agg", name="FigureCanvasAgg", descriptor=_NEEDED)
    cases = report["cases"]
    regions = list(cases[0]["regions"]) if cases else []
    columns = [name for name in _TITLES if cases and name in cases[0]["regions"][regions[0]]]
    figure = make_figure(figsize=(4.2 * max(len(columns), 1), 6.4), layout="constrained")
    canvas(figure)
    figure.suptitle(f"{len(cases)} case{'s' * (len(cases) != 1)}: each a dot, the median a line", fontsize=11)
    grid = figure.add_gridspec(2, max(len(columns), 1), height_ratios=(3, 1.5))
    random = np.random.default_rng(0)  # dots beside each other, the same in every run
    for number, column in enumerate(columns):
        axes = figure.add_subplot(grid[0, number])
        for place, region in enumerate(regions):
            values = _values(cases, region, column)
            axes.scatter(place + random.uniform(-0.18, 0.18, len(values)), values, s=14, alpha=0.6, linewidths=0)
            if values:
                axes.hlines(np.median(values), place - 0.3, place + 0.3, color="black", linewidth=1.5)
        axes.set(
            title=_TITLES[column], xticks=range(len(regions)), xticklabels=regions, xlim=(-0.6, len(regions) - 0.4)
        )
        axes.set_ylim((0, None) if column == "hd95_mm" else (-0.02, 1.02))
        axes.grid(axis="y", alpha=0.3)
    text = figure.add_subplot(grid[1, :])
    text.set_axis_off()
    text.text(0, 1, _worst(cases, regions), family="monospace", fontsize=9, va="top", parse_math=False)
    return figure


def _values(cases: Sequence[Mapping[str, Any]], region: str, column: str) -> list[float]:
    values = (case["regions"][region][column] for case in cases)
    return [value for value in values if value is not None]


def _worst(cases: Sequence[Mapping[str, Any]], regions: Sequence[str]) -> str:
    """Lines of the cases whose mean Dice is lowest."""

    def dice(case: Mapping[str, Any]) -> list[float]:
        return [case["regions"][region].get("dice") or 0.0 for region in regions]

    worst = sorted(cases, key=lambda case: float(np.mean(dice(case))))[:_WORST]
    lines = [f"lowest Dice   {'  '.join(region.rjust(6) for region in regions)}"]
    for case in worst:
        name = case["case"].encode(errors="replace").decode()
        lines.append(f"{'':12}  {'  '.join(f'{value:6.3f}' for value in dice(case))}  {name[:60]}")
    return "\n".join(lines)

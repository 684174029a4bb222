"""Metrics of each case and region on disk: `metrics.csv` for a spreadsheet, `metrics.json` with the summary."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from monai.data import decollate_batch
from monai.utils import convert_to_numpy, optional_import

from custom_nets.distributed import gather_items
from custom_nets.errors import InputError
from custom_nets.io.files import atomic_file
from custom_nets.metrics.summary_picture import draw_summary
from custom_nets.transforms.saving.meshes import case_and_affine
from custom_nets.transforms.saving.volumes import region_millilitres

if TYPE_CHECKING:
    from ignite.engine import Engine, Events
else:
    Engine, _ = optional_import("ignite.engine", name="Engine")
    Events, _ = optional_import("ignite.engine", name="Events")

idist, _ = optional_import("ignite", name="distributed")


def summarise(values: np.ndarray) -> dict[str, float | int | None]:
    """Returns the mean, median and standard deviation (population) of the finite values, and how many those are.

    Args:
        values: any shape; None in place of the statistics where no value is finite.
    """
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return {"mean": None, "median": None, "std": None, "cases": 0}
    return {
        "mean": float(finite.mean()),
        "median": float(np.median(finite)),
        "std": float(finite.std()),
        "cases": int(finite.size),
    }


def _number(value: float) -> float | None:
    """Returns the value with the six digits that float32 carries, None for NaN and infinity, which JSON cannot hold."""
    return float(f"{value:.6g}") if np.isfinite(value) else None


def write_case_metrics(
    output_dir: str | os.PathLike,
    cases: Sequence[str],
    regions: Sequence[str],
    columns: Mapping[str, np.ndarray],
    left_out: Sequence[str] = (),
) -> dict[str, Any]:
    """Writes `metrics.csv` (one row a case and region) and `metrics.json` (the same, and the summary of each region).

    A case that is there twice with equal numbers, as a distributed sampler repeats cases to make ranks even, is written
    and counted once. In the JSON, `summary` holds for each region and column what `summarise` gives, and under `mean`
    the same for the average over regions of each case.

    Args:
        output_dir: made where missing; files of the same names are replaced.
        cases: N case names.
        regions: R region names.
        columns: name of a column to its numbers `[N, R]`, in the order of the columns.
        left_out: why other cases have no numbers, a line each; the JSON holds them under `left_out`.

    Returns:
        The content of `metrics.json`.

    Raises:
        InputError: when an array is not `[N, R]`.
    """
    for name, values in columns.items():
        if values.shape != (len(cases), len(regions)):
            msg = (
                f"metric '{name}' has shape {tuple(values.shape)}; expected ({len(cases)}, {len(regions)}): one row "
                f"for each case and one column for each of {', '.join(regions)}"
            )
            raise InputError(msg)
    table = np.stack([np.asarray(v, dtype=np.float64) for v in columns.values()], axis=-1)  # [N, R, columns]
    kept = _first_of_each(cases, table)
    names, shown = [cases[i] for i in kept], table[kept]
    _write_csv(Path(output_dir) / "metrics.csv", names, regions, tuple(columns), shown)
    return _write_json(Path(output_dir) / "metrics.json", names, regions, tuple(columns), shown, left_out)


def _first_of_each(cases: Sequence[str], table: np.ndarray) -> list[int]:
    """Returns the indices of the cases without their repetitions: same name and same numbers `[N, R, columns]`."""
    first: dict[tuple[str, bytes], int] = {}
    for index, (case, rows) in enumerate(zip(cases, table, strict=True)):
        first.setdefault((case, rows.tobytes()), index)
    return list(first.values())


def _write_csv(
    path: Path, cases: Sequence[str], regions: Sequence[str], columns: Sequence[str], table: np.ndarray
) -> None:
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["case", "region", *columns])
        for case, rows in zip(cases, table, strict=True):
            for region, numbers in zip(regions, rows, strict=True):
                writer.writerow([case, region, *map(_number, numbers)])


def _write_json(
    path: Path,
    cases: Sequence[str],
    regions: Sequence[str],
    columns: Sequence[str],
    table: np.ndarray,
    left_out: Sequence[str],
) -> dict[str, Any]:
    def named(numbers: np.ndarray) -> dict[str, float | None]:
        return dict(zip(columns, map(_number, numbers), strict=True))

    by_region = {region: table[:, r] for r, region in enumerate(regions)}
    by_region["mean"] = table.mean(axis=1)
    report = {
        "cases": [
            {"case": case, "regions": {region: named(numbers) for region, numbers in zip(regions, rows, strict=True)}}
            for case, rows in zip(cases, table, strict=True)
        ],
        "summary": {
            region: {column: summarise(values[:, c]) for c, column in enumerate(columns)}
            for region, values in by_region.items()
        },
        **({"left_out": list(left_out)} if left_out else {}),
    }
    with atomic_file(path) as file:
        file.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return report


class _Measured(NamedTuple):
    """A case and the volumes of its regions, millilitres `[R]`."""

    case: str
    label: list[float]
    prediction: list[float]


class SaveCaseMetrics:
    """Handler that writes `metrics.csv`, `metrics.json` and `summary.png` when an evaluator has seen all cases.

    The first rank alone writes; without matplotlib there is no picture.

    The numbers of each case come from `engine.state.metric_details`, where `monai.handlers.IgniteMetricHandler` leaves
    them; the volumes are measured here. Columns: case, region, the metrics, `volume_error_ml`, `label_ml`,
    `prediction_ml`. MONAI's `MetricsSaver` writes another `metrics.csv`: give it another folder.

    Args:
        output_dir: folder of the three files.
        regions: name of each channel.
        metrics: name of a metric in the evaluator to the column it fills, such as `{"val_mean_dice": "dice"}`; a
            sequence of names keeps them as they are; None takes every metric with one number a case and region.
        pred_key: binary prediction `[R, H, W, D]` in the evaluator's output, after its postprocessing.
        label_key: binary label `[R, H, W, D]` likewise, a MetaTensor whose affine gives the voxel's size.
        case_key: where an item names its case; without it the name of the label's file serves.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike,
        regions: Sequence[str],
        metrics: Mapping[str, str] | Sequence[str] | None = None,
        pred_key: str = "pred",
        label_key: str = "label",
        case_key: str = "case",
    ) -> None:
        self.output_dir = Path(output_dir)
        self.regions = tuple(regions)
        self.metrics = metrics if metrics is None or isinstance(metrics, Mapping) else {name: name for name in metrics}
        self.pred_key = pred_key
        self.label_key = label_key
        self.case_key = case_key
        self._measured: list[_Measured] = []

    def attach(self, engine: Engine) -> None:
        """Registers with an evaluator; its metrics must be attached before (a MONAI evaluator does that itself)."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _start(self, _engine: Engine) -> None:
        self._measured = []

    def _collect(self, engine: Engine) -> None:
        if not engine.state.output:  # a `CaseEvaluator` has left the case out
            return
        batch, output = (
            state if isinstance(state, list) else decollate_batch(state)
            for state in (engine.state.batch, engine.state.output)
        )
        for read, made in zip(batch, output, strict=True):
            item: dict[Any, Any] = {**read, **made}
            case, affine = case_and_affine(item, self.label_key, self.regions, self.case_key)
            label, prediction = item[self.label_key], item[self.pred_key]
            volumes = (region_millilitres(part, affine) for part in (label, prediction))
            self._measured.append(_Measured(case, *volumes))

    def _write(self, engine: Engine) -> None:
        # Every rank takes part in gathering, in the order in which the metrics gather: rank by rank.
        measured = gather_items(self._measured)
        left_out = engine.reasons() if hasattr(engine, "reasons") else ()
        if idist.get_rank() != 0:
            return
        cases = [one.case for one in measured]
        columns = self._columns(getattr(engine.state, "metric_details", {}), len(cases))
        label, prediction = (
            np.array(ml).reshape(-1, len(self.regions))
            for ml in ([one.label for one in measured], [one.prediction for one in measured])
        )
        columns |= {"volume_error_ml": prediction - label, "label_ml": label, "prediction_ml": prediction}
        report = write_case_metrics(self.output_dir, cases, self.regions, columns, left_out)
        if cases and optional_import("matplotlib")[1]:
            with atomic_file(self.output_dir / "summary.png") as file:
                draw_summary(report).savefig(file, format="png", dpi=100)

    def _columns(self, details: Mapping[str, Any], cases: int) -> dict[str, np.ndarray]:
        """Picks the metrics to be written, each `[N, R]`."""
        if self.metrics is None:
            shape = (cases, len(self.regions))
            return {name: convert_to_numpy(v) for name, v in details.items() if getattr(v, "shape", None) == shape}
        missing = [name for name in self.metrics if name not in details]
        if missing:
            msg = (
                f"the evaluator has no metric '{missing[0]}' with save_details; it has {', '.join(details) or 'none'}: "
                "correct `metrics` of SaveCaseMetrics"
            )
            raise InputError(msg)
        return {column: convert_to_numpy(details[name]) for name, column in self.metrics.items()}

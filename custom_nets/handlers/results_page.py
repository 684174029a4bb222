"""A page and a table of everything that an inference has written."""

from __future__ import annotations

import csv
import json
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import ignite.distributed as idist
from ignite.engine import Engine, Events
from monai.utils import optional_import

from custom_nets.engines.case_by_case import CaseEvaluator
from custom_nets.errors import InputError
from custom_nets.io.files import atomic_file
from custom_nets.io.model_settings import settings_of
from custom_nets.io.weights import read_state_dict

logger = logging.getLogger(__name__)

PAGE, TABLE = "index.html", "volumes.csv"
_VOLUMES = "_volumes.json"


class ResultsPage:
    """Handler that writes `index.html` and `volumes.csv` into the folder of all results when an inference ends.

    The page opens without a network, in any browser: a line a case with its picture, volumes and files, which a click
    sorts, the cases that were left out, and what the results were made with. Both list every case that has its volumes
    in the folder, also those of earlier runs.

    Args:
        output_dir: folder of all cases.
        model: file of the weights, whose settings the page shows.
    """

    def __init__(self, output_dir: str | Path, model: str | Path | None = None) -> None:
        self.output_dir = Path(output_dir)
        self.model = model

    def attach(self, engine: Engine) -> None:
        """Registers with an evaluator; after the handlers that write results."""
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _write(self, engine: Engine) -> None:
        left_out = engine.reasons() if isinstance(engine, CaseEvaluator) else []  # of all processes
        if idist.get_rank() == 0:
            write_results_page(self.output_dir, self.model, left_out)


def write_results_page(output_dir: str | Path, model: str | Path | None = None, left_out: Sequence[str] = ()) -> None:
    """Writes `index.html` and `volumes.csv` for the cases in a folder; nothing where there are none.

    Args:
        output_dir: folder of all cases, each with its `<case>_volumes.json`.
        model: file of the weights, whose settings the page shows.
        left_out: a line for each case that has no results.
    """
    folder = Path(output_dir)
    read = (_read_case(file) for file in sorted(folder.glob(f"*/*{_VOLUMES}")))
    cases = [case for case in read if case is not None]
    if not cases:
        return
    regions = list(dict.fromkeys(name for case in cases for name in case["volumes"]))
    _write_table(folder / TABLE, cases, regions)
    environment, has_jinja = optional_import("jinja2", name="Environment")
    if not has_jinja:
        logger.warning("no %s: it needs jinja2 (pip install jinja2)", PAGE)
        return
    template = files("custom_nets.handlers").joinpath("results_page.html").read_text(encoding="utf-8")
    text = (
        environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        .from_string(template)
        .render(
            title=folder.resolve().name,
            cases=cases,
            regions=regions,
            labelled=any(case["label_volumes"] for case in cases),
            pictures=any(case["picture"] for case in cases),
            left_out=left_out,
            facts=_facts(model),
            written=time.strftime("%Y-%m-%d %H:%M"),
        )
    )
    with atomic_file(folder / PAGE) as file:
        file.write_text(text, encoding="utf-8")


def _read_case(volumes: Path) -> dict[str, Any] | None:
    """Returns what the page tells of a case; None where the file is not of a case's results."""
    try:
        content = json.loads(volumes.read_text(encoding="utf-8"))
        stem = volumes.name.removesuffix(_VOLUMES)
        label = volumes.with_name(f"{stem}_volumes_label.json")
        labelled = json.loads(label.read_text(encoding="utf-8"))["regions"] if label.is_file() else {}
        results = sorted(file.name for file in volumes.parent.iterdir() if file.is_file() and file.name[0] != ".")
        place = quote(volumes.parent.name)
        return {
            "name": content["case"],
            "volumes": _millilitres(content["regions"]),
            "label_volumes": _millilitres(labelled),
            "orientation": content.get("orientation"),
            "picture": next((f"{place}/{quote(name)}" for name in results if name == f"{stem}_overlay.png"), ""),
            "files": [(name.removeprefix(stem).lstrip("_"), f"{place}/{quote(name)}") for name in results],
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _millilitres(regions: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(numbers["ml"]) for name, numbers in regions.items()}


def _write_table(path: Path, cases: list[dict[str, Any]], regions: list[str]) -> None:
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        labelled = [region for region in regions if any(region in case["label_volumes"] for case in cases)]
        writer.writerow(
            ["case", *(f"{region}_ml" for region in regions), *(f"{region}_label_ml" for region in labelled)]
        )
        for case in cases:
            numbers = [case["volumes"].get(region, "") for region in regions]
            writer.writerow([case["name"], *numbers, *(case["label_volumes"].get(region, "") for region in labelled)])


def _facts(model: str | Path | None) -> dict[str, dict[str, str]]:
    """Returns what results are made with, under headings: versions and weights, and how the model was trained."""
    made: dict[str, str] = {}
    for package in ("custom-nets", "monai", "torch"):
        try:
            made[package] = version(package)
        except PackageNotFoundError:  # within a packed bundle
            continue
    settings: dict[str, Any] = {}
    if model is not None:
        made["weights"] = str(model)
        with suppress(InputError):
            settings = settings_of(read_state_dict(model))
    made.update({"SHA-256 of the weights": settings["weights_sha256"]} if settings else {})
    data = settings.get("data", {})
    counts = {section: f"{entry['cases']} cases" for section, entry in data.items() if isinstance(entry, dict)}
    trained = {**({"data": data["name"]} if data.get("name") else {}), **counts, **_rounded(settings.get("scores", {}))}
    return {
        "Made with": made,
        "The model's training": {**trained, **_shown(settings.get("keys", {}))},
        "Versions of the training": _shown(settings.get("versions", {})),
    }


def _shown(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}


def _rounded(scores: Mapping[str, float]) -> dict[str, str]:
    return {
        name: f"{value:.3f}" if isinstance(value, float) and value % 1 else f"{value:g}"
        for name, value in scores.items()
    }

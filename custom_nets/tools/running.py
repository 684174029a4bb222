"""Training, evaluation and inference of a bundle by what a person types: thin fronts of `monai.bundle run`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from custom_nets.engines.case_by_case import SOME_LEFT_OUT
from custom_nets.errors import InputError
from custom_nets.logs import duration
from custom_nets.tools.bundle_config import METADATA, run_bundle
from custom_nets.tools.command_line import checked_options
from custom_nets.tools.score_table import format_scores

_INPUT = "dataset_dir"
_OUTPUT = "output_dir"


def is_bundle(folder: str | Path) -> bool:
    """Tells whether a folder is a bundle."""
    return (Path(folder) / METADATA).is_file()


def infer_with_bundle(
    bundle: str | Path,
    inputs: Sequence[str | Path],
    output_dir: str | Path,
    configs: Sequence[str] = (),
    keys: Mapping[str, Any] | None = None,
) -> None:
    """Infers cases, see the bundle's `inference.json`.

    Args:
        bundle: its folder.
        inputs: folders of cases, folders of one case, or files: each a case, or one a channel of one case.
        output_dir: folder of the results.
        configs: names of config files after the main one, such as `variant`.
        keys: of the configs.

    Raises:
        InputError: when a file is missing or cannot be read, a key makes no sense, or no case could be inferred.
        SystemExit: when cases were left out, see `CaseEvaluator`.
    """
    _require_bundle(bundle)
    places = [str(path) for path in inputs]
    given: dict[str, Any] = {_INPUT: places[0] if len(places) == 1 else places, _OUTPUT: str(output_dir)}
    run_bundle(bundle, "inferring", configs, {**given, **(keys or {})})


def train_bundle(
    bundle: str | Path, dataset_dir: str | Path, configs: Sequence[str] = (), keys: Mapping[str, Any] | None = None
) -> None:
    """Trains a bundle, see its `train.json`.

    Args:
        bundle: its folder.
        dataset_dir: folder of the labelled cases.
        configs: names of config files after the main one, such as `variant`.
        keys: of the configs.

    Raises:
        InputError: when a file is missing or cannot be read, or a key makes no sense.
    """
    _require_bundle(bundle)
    run_bundle(bundle, "training", configs, {_INPUT: str(dataset_dir), **(keys or {})})


def evaluate_bundle(
    bundle: str | Path, dataset_dir: str | Path, configs: Sequence[str] = (), keys: Mapping[str, Any] | None = None
) -> None:
    """Infers labelled cases and scores them, see the bundle's `evaluate.json`; prints the scores as a table.

    Args:
        bundle: its folder.
        dataset_dir: folder of the labelled cases.
        configs: names of config files after the main ones, such as `variant`.
        keys: of the configs.

    Raises:
        InputError: when a file is missing or cannot be read, or a key makes no sense.
        SystemExit: when cases were left out, see `CaseEvaluator`.
    """
    given = {_INPUT: str(dataset_dir), **(keys or {})}
    file = Path(str(given.get(_OUTPUT, Path(bundle) / "eval"))) / "metrics.json"
    try:
        run_bundle(bundle, "evaluating", configs, given)
    except SystemExit as ended:
        if ended.code == SOME_LEFT_OUT:
            print(format_scores(file))
        raise
    print(format_scores(file))


def evaluate_results(
    results_dir: str | Path, labels_dir: str | Path, output_dir: str | Path, options: Mapping[str, Any]
) -> str:
    """Scores results that exist, see `score_results`.

    Args:
        results_dir: folder of the results.
        labels_dir: folder of the labels.
        output_dir: folder of the scores.
        options: of `score_results`, as typed.

    Returns:
        The scores as a table, and where they are.

    Raises:
        InputError: when an option is unknown or of a wrong type, or results and labels do not fit.
    """
    from custom_nets.tools.scoring import score_results

    checked = checked_options(score_results, options)
    start = time.perf_counter()
    file = score_results(results_dir, labels_dir, output_dir, **checked)
    spent = duration(time.perf_counter() - start)
    return f"{format_scores(file)}\nscored in {spent}; results: {file.with_suffix('.csv')}, {file}"


def _require_bundle(bundle: str | Path) -> None:
    if is_bundle(bundle):
        return
    msg = f"{bundle}: is no bundle, it has no {METADATA}; give the folder of a bundle (custom-nets bundles lists some)"
    raise InputError(msg)

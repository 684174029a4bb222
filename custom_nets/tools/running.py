"""Training, evaluation and inference of a bundle by what a person types: thin fronts of `monai.bundle run`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from custom_nets.errors import InputError
from custom_nets.tools.bundle_config import METADATA, run_bundle
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
) -> str:
    """Infers labelled cases and scores them, see the bundle's `evaluate.json`.

    Args:
        bundle: its folder.
        dataset_dir: folder of the labelled cases.
        configs: names of config files after the main ones, such as `variant`.
        keys: of the configs.

    Returns:
        The scores as a table.

    Raises:
        InputError: when a file is missing or cannot be read, or a key makes no sense.
    """
    given = {_INPUT: str(dataset_dir), **(keys or {})}
    run_bundle(bundle, "evaluating", configs, given)
    return format_scores(Path(str(given.get(_OUTPUT, Path(bundle) / "eval"))) / "metrics.json")


def _require_bundle(bundle: str | Path) -> None:
    if is_bundle(bundle):
        return
    msg = (
        f"{bundle}: is no bundle, there is no {METADATA}; give the folder of a bundle (custom-nets bundles lists some)"
    )
    raise InputError(msg)

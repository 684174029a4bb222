"""A bundle's inference config and metadata, read without running the bundle."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import monai
from monai.bundle import ConfigParser
from monai.utils import ensure_tuple

from custom_nets.bundle_keys import RENAMED, check_keys, set_keys
from custom_nets.errors import InputError
from custom_nets.io.files import parse_json_object
from custom_nets.io.model_settings import take_over
from custom_nets.logs import quiet

METADATA = "configs/metadata.json"

STEPS = {"training": ("train",), "evaluating": ("train", "evaluate"), "inferring": ("inference",)}
"""Steps of every bundle, and the config files that each takes."""


def read_metadata(bundle: str | Path) -> dict[str, Any]:
    """Returns the content of a bundle's metadata.json.

    Raises:
        InputError: when there is none, or it is no JSON object.
    """
    file = Path(bundle) / METADATA
    if not file.is_file():
        msg = f"{file}: there is no such file; expected the folder of a bundle"
        raise InputError(msg)
    return parse_json_object(file.read_bytes(), file, "correct it, or fetch the bundle again")


def config_files(bundle: str | Path, names: Sequence[str]) -> list[Path]:
    """Returns a bundle's config files by their names, such as `train`.

    Raises:
        InputError: when one is missing, or is no JSON object.
    """
    files = [Path(bundle) / "configs" / f"{name}.json" for name in names]
    for file in files:
        if not file.is_file():
            there = sorted(path.stem for path in file.parent.glob("*.json") if path.stem != "metadata")
            similar = difflib.get_close_matches(file.stem, there, n=1)
            known = f" and its configs, {', '.join(there)}" if there else ", and its configs"
            advice = f"did you mean {similar[0]}?" if similar else f"expected the folder of a bundle{known}"
            msg = f"{file}: there is no such file; {advice}"
            raise InputError(msg)
        parse_json_object(file.read_bytes(), file, "correct it")
    return files


def run_bundle(
    bundle: str | Path, step: str, configs: str | Sequence[str] = (), keys: dict[str, Any] | None = None
) -> None:
    """Runs a bundle through MONAI, after the checks that come too late within a run: of files and of nested keys.

    What MONAI and others warn of is shown with the key `verbose` alone.

    Args:
        bundle: its folder.
        step: `training`, `evaluating` or `inferring`.
        configs: names of config files after the main ones, such as `variant`; one or several.
        keys: of the configs.

    Raises:
        InputError: when a file is missing or cannot be read, or a key leads nowhere.
    """
    given = keys or {}
    files = config_files(bundle, (*STEPS[step], *ensure_tuple(configs)))
    with quiet():
        trial = ConfigParser()
        trial.read_config([str(file) for file in files])
    set_keys(trial, {key: value for key, value in given.items() if key not in RENAMED})
    with nullcontext() if str(given.get("verbose")).lower() == "true" else quiet():
        monai.bundle.run(step, config_file=[str(file) for file in files], **given)


def read_bundle(
    bundle: str | Path, configs: str | Sequence[str] = (), keys: dict[str, Any] | None = None
) -> tuple[ConfigParser, int]:
    """Reads what a run of a bundle's inference would, with the keys that its model was trained with.

    Args:
        bundle: its folder.
        configs: names of config files after inference.json, such as `variant`; one or several.
        keys: of the configs, as on the command line of a run.

    Returns:
        The configs, and the number of channels of an image.

    Raises:
        InputError: when the folder is no bundle, a config is missing or no JSON, or a key is unknown or makes no sense.
    """
    metadata = read_metadata(bundle)
    files = config_files(bundle, ("inference", *ensure_tuple(configs)))
    parser = ConfigParser()
    with quiet():
        parser.read_config([str(file) for file in files])
    parser.update({"bundle_root": str(bundle)})
    set_keys(parser, keys or {})
    check_keys(parser, Path(bundle) / "configs", keys or {})
    take_over(parser, keys or {}, files[0].parent)
    return parser, metadata["network_data_format"]["inputs"]["image"]["num_channels"]


def check_shape(shape: Sequence[int]) -> None:
    """Refuses what is no three numbers of voxels.

    Raises:
        InputError: then.
    """
    if len(tuple(shape)) != 3 or not all(isinstance(side, int) and side > 0 for side in shape):
        msg = f"shape is {shape}; expected three numbers of voxels, such as --shape 240 240 155"
        raise InputError(msg)

"""The settings that a network was trained with, which travel inside its file of weights."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor

import custom_nets
from custom_nets.errors import InputError

logger = logging.getLogger(__name__)

_ENTRY = "custom_nets"
"""Entry of the settings in a state dict's metadata, which PyTorch keeps for the versions of layers."""

ADAPTABLE = frozenset({"crop_size", "label_scheme"})
"""Keys that may differ from the training's in inference: the window that slides over the image, the numbers written."""


def with_settings(state: Mapping[str, Tensor], record: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """Writes a record into the metadata of a state dict, which stays a plain one for every program that loads it.

    Args:
        state: as `network.state_dict()` gives it; changed in place.
        record: what JSON can hold; see `training_record`.
    """
    metadata: Any = getattr(state, "_metadata", None)
    if metadata is not None:
        metadata[_ENTRY] = {"settings": json.dumps(record, default=_plain)}
    return state


def settings_of(state: Any) -> dict[str, Any]:
    """Returns the record that `with_settings` wrote into a state dict; empty where there is none."""
    text = getattr(state, "_metadata", {}).get(_ENTRY, {}).get("settings")
    return json.loads(text) if text else {}


def training_record(
    keys: Mapping[str, Any],
    state: Mapping[str, Tensor],
    cases: Mapping[str, Sequence[Any]],
    scores: Mapping[str, Any],
    data_name: str = "",
) -> dict[str, Any]:
    """Returns what of a training travels with its weights.

    Args:
        keys: names and values of the config's keys that describe the network and its input.
        state: of the network.
        cases: items of the data set by section; their number and a hash of their names are kept, not the names, which
            may be those of patients.
        scores: of the validation.
        data_name: of the data set.
    """
    packages = ("torch", "monai", "numpy", "pytorch-ignite")
    return {
        "keys": dict(keys),
        "data": {
            "name": data_name,
            **{section: {"cases": len(items), "sha256": _hash_names(items)} for section, items in cases.items()},
        },
        "scores": {name: float(value) for name, value in scores.items() if isinstance(value, (int, float))},
        "versions": {
            "custom-nets": custom_nets.__version__,
            "python": platform.python_version(),
            **{package: _version(package) for package in packages},
        },
        "weights_sha256": hash_weights(state),
    }


def hash_weights(state: Mapping[str, Tensor]) -> str:
    """Returns the SHA-256 of a state dict's names, types and numbers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def take_over(parser: ConfigParser, typed: Collection[str], folder: str | Path) -> None:
    """Sets the keys that describe a model, and that nobody typed, to what `load_model` was trained with.

    A typed key that differs stays, for `check_settings` to judge. What is taken is told in one line.

    Args:
        parser: of the configs of a run; the keys are those of `model_keys`.
        typed: keys from a command line; a value that no config in `folder` has was typed as well.
        folder: of the bundle's configs.

    Raises:
        InputError: when the model is another network than the configs build.
    """
    path = parser.get_parsed_content("load_model") if "load_model" in parser else None
    trained = _read_keys(path)
    classes = parser.get("network_def#_target_"), trained.get("network_class", parser.get("network_def#_target_"))
    if classes[0] != classes[1]:
        here, there = (str(name).rpartition(".")[2] for name in classes)
        msg = (
            f"{path} is a {there}, but the configs build a {here}; give the config files of its training, such as "
            "variant.json or paper.json, after the main --config_file"
        )
        raise InputError(msg)
    files = [ConfigParser.load_config_file(file) for file in Path(folder).glob("*.json")]
    taken = []
    for name in parser["model_keys"] if trained else ():
        if name not in trained or name not in parser or same(parser[name], trained[name]):
            continue
        if name in typed or not any(same(parser[name], file[name]) for file in files if name in file):
            continue
        taken.append(f"{name} {_shown(trained[name])} (config: {_shown(parser[name])})")
        parser[name] = trained[name]
    if taken:
        logger.info("as %s was trained: %s", path, ", ".join(taken))


def check_settings(path: str | Path, state: Mapping[str, Tensor], keys: Mapping[str, Any], strict: bool) -> None:
    """Compares the keys of a run with those that a model was trained with; what differs was meant by a person.

    Args:
        path: of the model, for messages.
        state: what it holds.
        keys: of this run.
        strict: whether a difference is an error, as in inference, except in `ADAPTABLE` keys; else a warning.

    Raises:
        InputError: when one is.
    """
    record = settings_of(state)
    if not record:
        if keys:
            shown = ", ".join(f"{name} {_shown(value)}" for name, value in keys.items())
            logger.warning("%s does not tell how it was trained (older, or converted); taken for it: %s", path, shown)
        return
    if record.get("weights_sha256") != hash_weights(state):
        logger.warning("%s: its weights were changed after the training that it tells of", path)
    trained = record["keys"]
    differing = {name: value for name, value in keys.items() if name in trained and not same(value, trained[name])}
    wrong = [name for name in differing if strict and name not in ADAPTABLE]
    if wrong:
        found = "; ".join(
            f"{name} is {_shown(differing[name])}, trained with {_shown(trained[name])}" for name in wrong
        )
        msg = f"{path}: {found}; leave these keys out, or give the config files of its training"
        raise InputError(msg)
    for name, value in differing.items():
        logger.warning("%s is %s, but %s was trained with %s", name, _shown(value), path, _shown(trained[name]))


def same(one: Any, other: Any) -> bool:
    """Tells whether two values of a key are the same, a tuple and a list or 1 and 1.0 among them."""
    return json.loads(json.dumps(one, default=_plain)) == json.loads(json.dumps(other, default=_plain))


def _read_keys(path: str | Path | None) -> dict[str, Any]:
    if path is None or not Path(path).is_file():
        return {}
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        content = content.get("network", content) if isinstance(content, dict) else content
        return settings_of(content).get("keys", {})
    except Exception as error:
        logger.debug("%s: %s", path, error)
        return {}


def _hash_names(items: Sequence[Any]) -> str:
    names = sorted(str(item.get("case", item)) if isinstance(item, Mapping) else str(item) for item in items)
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _shown(value: Any) -> str:
    return json.dumps(value, default=_plain)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"

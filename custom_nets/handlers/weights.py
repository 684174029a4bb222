"""Weights for a run: loaded before it starts, what does not fit told in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.utils import ensure_tuple

from custom_nets.errors import InputError, first_names
from custom_nets.io.model_settings import check_settings, settings_of
from custom_nets.io.weights import read_state_dict, require_fit, unwrapped
from custom_nets.networks.named_axes import map_weights

_ADVICE = (
    "give the keys that it was trained with (regions, the network's sizes), and after the main --config_file the "
    "override file of that training (such as paper.json or variant.json)"
)
_NAMED = {"channels": "modalities", "regions": "regions"}
"""Keys that name what belongs to single weights."""


class LoadWeights:
    """Loads a state dict into the network before a run starts; wrong files are told in one line.

    A network that is trained on may have other channels or regions than its weights: what belongs to a channel or a
    region moves to where its name is now, a new channel starts without effect, a new region from random numbers.

    Args:
        path: the file, such as `model.pt`, or the whole state of a run; None loads nothing.
        network: to load into, every key and shape must fit.
        keys: of the config, that describe the network and its input; compared with those of the model's training.
        strict: whether a key that differs is an error, see `check_settings`; false where the network is trained on.
        members: files of the networks of an ensemble, which are compared likewise and loaded by its inferer.
    """

    def __init__(
        self,
        path: str | Path | None,
        network: torch.nn.Module,
        keys: Mapping[str, Any] | None = None,
        strict: bool = True,
        members: Sequence[str | Path] | str | Path = (),
    ) -> None:
        self.path = path
        self.network = network
        self.keys = keys or {}
        self.strict = strict
        self.members = [str(member) for member in ensure_tuple(members) if str(member) != str(path)]

    def attach(self, engine: Engine) -> None:
        """Registers with a trainer or an evaluator."""
        if self.path is not None:
            engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Loads the file.

        Raises:
            InputError: when the file is absent, cannot be read, does not fit the network, or was trained otherwise.
        """
        if not Path(str(self.path)).is_file():
            msg = f"{self.path}: there is no such model; train one first (run training), or give --load_model FILE"
            raise InputError(msg)
        state = read_state_dict(str(self.path))
        names = {} if self.strict else self._renamed(settings_of(state).get("keys", {}))
        fitting, anew = map_weights(unwrapped(self.network), state, *_sides(names)) if names else (state, [])
        require_fit(self.network, fitting, str(self.path), _ADVICE)
        keys = {key: value for key, value in self.keys.items() if not names or key not in _NAMED.values()}
        check_settings(str(self.path), state, keys, self.strict)
        for member in self.members:
            check_settings(member, read_state_dict(member), self.keys, self.strict)
        engine.logger.info("loaded %s", self.path)
        for line in _told(names, anew):
            engine.logger.warning("%s: %s", self.path, line)

    def _renamed(self, trained: Mapping[str, Any]) -> dict[str, tuple[list[str], list[str]]]:
        """Names of channels and regions, those of the weights and those of this run; empty where they are the same."""
        keys = _NAMED.values()
        if not all(isinstance(each.get(key), (list, tuple)) for each in (trained, self.keys) for key in keys):
            return {}
        names = {of: (list(map(str, trained[key])), list(map(str, self.keys[key]))) for of, key in _NAMED.items()}
        return names if any(old != new for old, new in names.values()) else {}


def _sides(names: Mapping[str, tuple[list[str], list[str]]]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    return {of: old for of, (old, _) in names.items()}, {of: new for of, (_, new) in names.items()}


def _told(names: Mapping[str, tuple[list[str], list[str]]], anew: list[str]) -> list[str]:
    """Lines of what was taken from the weights, and what starts anew."""
    lines = []
    for of, (old, new) in names.items():
        kept, added, gone = (
            [name for name in new if name in old],
            [name for name in new if name not in old],
            [name for name in old if name not in new],
        )
        if old != new:
            parts = [f"as trained: {', '.join(kept) or 'none'}"]
            parts += [f"new: {', '.join(added)}"] if added else []
            parts += [f"left out: {', '.join(gone)}"] if gone else []
            lines.append(f"its {of} {'; '.join(parts)}")
    return lines + ([f"starts anew, for channels are mixed in it: {first_names(anew)}"] if anew else [])

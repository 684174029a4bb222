"""Weights for a run: loaded before it starts, what does not fit told in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.utils import ensure_tuple

from custom_nets.errors import InputError
from custom_nets.io.model_settings import check_settings
from custom_nets.io.weights import load_weights, read_state_dict

_ADVICE = (
    "give the keys that it was trained with (regions, the network's sizes), and after the main --config_file the "
    "override file of that training (such as paper.json or variant.json)"
)


class LoadWeights:
    """Loads a state dict into the network before a run starts; wrong files are told in one line.

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
        state = load_weights(self.network, str(self.path), _ADVICE)
        check_settings(str(self.path), state, self.keys, self.strict)
        for member in self.members:
            check_settings(member, read_state_dict(member), self.keys, self.strict)
        engine.logger.info("loaded %s", self.path)

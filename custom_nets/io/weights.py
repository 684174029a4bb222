"""Reading the weights of a network from a file, and loading them: what does not fit is told in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from custom_nets.errors import InputError, first_names

_ENTRIES = ("network", "model")  # where the whole state of a run holds the network
_ADVICE = "give the file that belongs to this network, or build the network as it was trained"


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Reads a plain state dict (names to tensors) onto the CPU; code in the file is never run.

    Of the whole state of a run (`checkpoint_best.pt`), the network's part is returned.

    Args:
        path: file that `torch.save` or MONAI's `CheckpointSaver` wrote.

    Raises:
        InputError: when the file is absent, damaged, holds code, or holds no state dict.
    """
    if not Path(path).is_file():
        msg = f"{path}: there is no such file; give a file of weights, such as model.pt"
        raise InputError(msg)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage shows as almost any exception, depending on the byte
        msg = (
            f"{path}: cannot be read as a file of plain tensors (it is damaged, or holds code, which is never run); "
            "copy it again, or save the network's state dict alone"
        )
        raise InputError(msg) from error
    inner = [content[name] for name in _ENTRIES if isinstance(content, dict) and isinstance(content.get(name), dict)]
    state = inner[0] if inner else content
    if not _is_state_dict(state):
        msg = (
            f"{path}: holds no plain state dict (names to tensors) but {_described(state)}; "
            "give a file that was saved from network.state_dict(), such as model.pt"
        )
        raise InputError(msg)
    return state


def load_weights(network: nn.Module, path: str | Path, advice: str = _ADVICE) -> None:
    """Loads a file into a network; every name and shape must fit.

    Args:
        network: to load into, on any device; may be wrapped in DistributedDataParallel or DataParallel.
        path: see `read_state_dict`.
        advice: what the person should do when the file does not fit, the end of the message.

    Raises:
        InputError: when the file cannot be read, or does not fit the network (which is then partly loaded).
    """
    state = read_state_dict(path)
    wrapped = isinstance(network, (nn.parallel.DistributedDataParallel, nn.DataParallel))
    model: Any = network.module if wrapped else network
    wanted = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    misshaped = [name for name in state if name in wanted and state[name].shape != wanted[name].shape]
    fitting = {name: tensor for name, tensor in state.items() if name not in misshaped} if misshaped else state
    # Not strict, so that the network's own hooks (old names, parts left out) run before anything is found amiss.
    result = model.load_state_dict(fitting, strict=False)
    missing = [name for name in result.missing_keys if name not in misshaped]
    shapes = [f"{name} ({tuple(state[name].shape)}, expected {tuple(wanted[name].shape)})" for name in misshaped]
    found = describe_misfit(missing, result.unexpected_keys, shapes)
    if found:
        msg = f"{path}: does not fit the network: {found}; {advice}"
        raise InputError(msg)


def describe_misfit(missing: Sequence[str], unexpected: Sequence[str], misshaped: Sequence[str]) -> str:
    """Returns what of a state dict does not fit, with the first names of each kind; empty where all fits."""
    kinds = {"missing": missing, "unexpected": unexpected, "wrongly shaped": misshaped}
    return "; ".join(f"{len(names)} {kind}: {first_names(sorted(names))}" for kind, names in kinds.items() if names)


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())
    )


def _described(value: Any) -> str:
    if not isinstance(value, Mapping):
        return f"a {type(value).__name__}"
    return f"a dict of {first_names([str(name) for name in value])}" if value else "an empty dict"

"""Reading the weights of a network from a file, and loading them: what does not fit is told in one line."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from custom_nets.errors import InputError, first_names
from custom_nets.io.files import atomic_file

_ENTRIES = ("network", "model")  # where the whole state of a run holds the network
_ADVICE = "give the file that belongs to this network, or build the network as it was trained"


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Reads a plain state dict (names to tensors) onto the CPU; code in the file is never run.

    Of the whole state of a run (`checkpoint_best.pt`), the network's part is returned.

    Args:
        path: file that `torch.save` or MONAI's `CheckpointSaver` wrote.

    Raises:
        InputError: when the file is absent, damaged, holds code, no state dict, or numbers that are not finite.
    """
    content = read_tensors(path)
    inner = [content[name] for name in _ENTRIES if isinstance(content, dict) and isinstance(content.get(name), dict)]
    state = inner[0] if inner else content
    if not _is_state_dict(state):
        msg = (
            f"{path}: holds no plain state dict (names to tensors) but {_described(state)}; "
            "give a file that was saved from network.state_dict(), such as model.pt"
        )
        raise InputError(msg)
    wrong = names_not_finite(state)
    if wrong:
        msg = (
            f"{path}: weights are not finite (NaN or infinite) in {len(wrong)} tensors: {first_names(wrong)}; they "
            "come from a training that failed: give an earlier file"
        )
        raise InputError(msg)
    return state


def read_tensors(path: str | Path) -> Any:
    """Reads what `torch.save` wrote onto the CPU, after comparing it with its own checksums; code is never run.

    Raises:
        InputError: when the file is absent, damaged, or holds code.
    """
    if not Path(path).is_file():
        msg = f"{path}: there is no such file; give a file of weights, such as model.pt"
        raise InputError(msg)
    try:
        if zipfile.is_zipfile(path):  # PyTorch before 1.6 wrote others
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()  # PyTorch itself does not compare
            if damaged is not None:
                raise zipfile.BadZipFile(damaged)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage shows as almost any exception, depending on the byte
        msg = (
            f"{path}: cannot be read as a file of plain tensors (it is damaged, or holds code, which is never run); "
            "copy it again, or save the network's state dict alone"
        )
        raise InputError(msg) from error


def save_tensors(path: str | Path, content: Any, before: Callable[[], None] | None = None) -> None:
    """Writes what `read_tensors` reads, whole or not at all; the same content gives the same bytes.

    Args:
        path: the file.
        content: tensors, numbers and texts in dicts, lists and tuples.
        before: see `atomic_file`.

    Raises:
        InputError: when it cannot be written, such as on a full disk; a file that was there is as it was.
    """
    try:
        with atomic_file(path, before) as temporary, temporary.open("wb") as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:  # PyTorch tells a full disk as the latter
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        reason = "most likely the disk is full" if "inline_container" in reason else reason
        msg = f"{path}: cannot be written ({reason}), what was there is as it was; free space, or give another folder"
        raise InputError(msg) from error


def names_not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """Returns the names of the tensors that hold NaN or infinite numbers."""
    return [name for name, tensor in state.items() if not bool(torch.isfinite(tensor).all())]


def load_weights(network: nn.Module, path: str | Path, advice: str = _ADVICE) -> dict[str, Tensor]:
    """Loads a file into a network; every name and shape must fit.

    Args:
        network: to load into, on any device; may be wrapped in DistributedDataParallel or DataParallel.
        path: see `read_state_dict`.
        advice: what the person should do when the file does not fit, the end of the message.

    Returns:
        What the file holds.

    Raises:
        InputError: when the file cannot be read, or does not fit the network (which is then partly loaded).
    """
    state = read_state_dict(path)
    require_fit(network, state, path, advice)
    return state


def require_fit(network: nn.Module, state: Mapping[str, Tensor], path: str | Path, advice: str = _ADVICE) -> None:
    """Loads a state dict into a network; every name and shape must fit.

    Args:
        network: see `load_weights`.
        state: names to tensors.
        path: where they are from, for the message.
        advice: see `load_weights`.

    Raises:
        InputError: when they do not fit (the network is then partly loaded).
    """
    found = load_state(network, state)
    if found:
        msg = f"{path}: does not fit the network: {found}; {advice}"
        raise InputError(msg)


def load_state(network: nn.Module, state: Mapping[str, Tensor]) -> str:
    """Loads a state dict into a network, and returns what does not fit, see `describe_misfit`; empty where all fits.

    Args:
        network: on any device; may be wrapped in DistributedDataParallel or DataParallel.
        state: names to tensors.
    """
    model = unwrapped(network)
    wanted = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    misshaped = [name for name in state if name in wanted and state[name].shape != wanted[name].shape]
    fitting = {name: tensor for name, tensor in state.items() if name not in misshaped} if misshaped else state
    # Not strict, so that the network's own hooks (old names, parts left out) run before anything is found amiss.
    result = model.load_state_dict(fitting, strict=False)
    missing = [name for name in result.missing_keys if name not in misshaped]
    shapes = [f"{name} ({tuple(state[name].shape)}, expected {tuple(wanted[name].shape)})" for name in misshaped]
    return describe_misfit(missing, result.unexpected_keys, shapes)


def unwrapped(network: nn.Module) -> nn.Module:
    """Returns the network itself, where it is wrapped in DistributedDataParallel or DataParallel."""
    wrapped = isinstance(network, (nn.parallel.DistributedDataParallel, nn.DataParallel))
    module: Any = network.module if wrapped else network
    return module


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

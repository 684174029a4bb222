"""Checks of what inferers are given."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import torch
from monai.utils import StrEnum

from custom_nets.errors import InputError

_PLAIN = (str, int, float, bool, list, tuple, dict, type(None))


def shown(value: Any) -> str:
    """Returns a value for a message: a plain one as it is, any other (a network, say, of many lines) by its class."""
    if isinstance(value, (list, tuple)) and not all(isinstance(part, _PLAIN) for part in value):
        return f"a {type(value).__name__} of {', '.join(sorted({type(part).__name__ for part in value}))}"
    if isinstance(value, str):
        return f"'{value}'"
    return str(value) if isinstance(value, _PLAIN) else f"a {type(value).__name__}"


def is_number(value: Any) -> bool:
    """Whether a value is a real number, Python's or NumPy's."""
    return isinstance(value, Real)


def checked_choice(name: str, value: Any, choices: type[StrEnum]) -> str:
    """Returns one of the values of an enumeration.

    Raises:
        InputError: when it is another.
    """
    known = [str(choice) for choice in choices]
    if str(value) not in known:
        msg = f"{name} is {shown(value)}; expected one of {', '.join(known)}"
        raise InputError(msg)
    return str(value)


def checked_count(name: str, value: Any, least: int = 1, otherwise: str = "") -> int:
    """Returns a whole number; `otherwise` tells the message what else is accepted.

    Raises:
        InputError: when it is none, or below the least.
    """
    if not (is_number(value) and math.isfinite(value) and value == int(value) and value >= least):
        msg = f"{name} is {shown(value)}; expected a whole number of at least {least}{otherwise}"
        raise InputError(msg)
    return int(value)


def checked_probability(name: str, value: Any) -> float:
    """Returns a number between 0 and 1, both excluded.

    Raises:
        InputError: when it is none.
    """
    if not is_number(value) or not 0 < value < 1:
        msg = f"{name} is {shown(value)}; expected a number between 0 and 1, both excluded"
        raise InputError(msg)
    return float(value)


def check_image(inputs: torch.Tensor) -> None:
    """Refuses what is no batch of volumes.

    Raises:
        InputError: when the image has not five axes.
    """
    if inputs.ndim != 5:
        msg = f"inputs: shape {list(inputs.shape)} has {inputs.ndim} axes; expected an image [B, C, H, W, D]"
        raise InputError(msg)

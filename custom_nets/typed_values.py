"""Values as a person types them: words of the shell, types of arguments, and how a message names both."""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

TRUTHS = {"true": True, "false": False}
"""Words for truth values, whatever their case."""

NULLS = ("null", "none")
"""Words for no value, whatever their case."""

_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
_COMPUTED = ("$", "@", "%")  # how MONAI's configs begin an expression, a reference, a copy


def alternatives(hint: Any) -> list[Any]:
    """Returns the types of which an annotation takes any."""
    if get_origin(hint) in (Union, types.UnionType):
        return [kind for each in get_args(hint) for kind in alternatives(each)]
    return [hint]


def kind_of(value: Any) -> Any:
    """Returns the type of a default; of a list with its items' type, where they have one."""
    if isinstance(value, (list, tuple)):
        kinds = {type(item) for item in value}
        return Sequence[kinds.pop()] if len(kinds) == 1 else Sequence  # type: ignore[misc]
    return type(value)


def fits(value: Any, kind: Any) -> bool:
    """Tells whether a value is of a type; what cannot be told is taken for granted."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any or is_computed(value):
        return True
    if origin is Literal:
        return value in arguments
    if origin in (Union, types.UnionType):
        return any(fits(value, each) for each in arguments)
    if isinstance(kind, type) and origin is None:
        if kind in (int, float):
            return isinstance(value, (int,) if kind is int else (int, float)) and not isinstance(value, bool)
        return isinstance(value, (str, Path) if issubclass(Path, kind) or kind is str else kind)
    if inspect.isclass(origin) and issubclass(origin, Sequence):
        items = arguments[:1] if origin is not tuple or arguments[1:] == (...,) else ()
        return isinstance(value, (list, tuple)) and all(fits(item, each) for item in value for each in items)
    return isinstance(value, origin) if inspect.isclass(origin) else True


def type_names(kinds: Sequence[Any]) -> str:
    """Returns the words for types: `a whole number or null`."""
    words: list[str] = []
    for kind in kinds:
        origin, arguments = get_origin(kind), get_args(kind)
        if origin is Literal:
            found = [str(each) for each in arguments]
        elif kind is Sequence or (inspect.isclass(origin) and issubclass(origin, Sequence)):
            plural = {int: "a list of whole numbers", float: "a list of numbers", str: "a list of texts"}
            found = [plural.get(item, "a list") for item in arguments[:1] or (object,)]
        elif inspect.isclass(kind) and (issubclass(Path, kind) or kind is str):
            found = ["text"]
        else:
            found = [_NAMES.get(kind) or f"a {getattr(kind, '__module__', '')}.{getattr(kind, '__name__', kind)}"]
        words += [word for word in found if word not in words]
    if "a number" in words and "a whole number" in words:
        words.remove("a whole number")
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def shown(value: Any) -> str:
    """Returns a value as it is typed."""
    words = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    if not isinstance(value, str) and str(value).startswith("torch."):
        return f"${value}"
    return json.dumps(value) if isinstance(value, (list, tuple)) else repr(value)


def is_computed(value: Any) -> bool:
    """Tells whether a value is known only when the config is resolved."""
    return (isinstance(value, str) and value.startswith(_COMPUTED)) or (isinstance(value, dict) and "_target_" in value)


def numbers(value: Any) -> list[float]:
    """Returns a value's numbers: itself, or those of a list."""
    items = value if isinstance(value, (list, tuple)) else [value]
    return [item for item in items if isinstance(item, (int, float)) and not isinstance(item, bool)]

"""Hashes of data items and of the settings of transforms, for preprocessed cases that are kept on the disk."""

from __future__ import annotations

import os
import random
import threading
import types
from collections.abc import Iterator, Mapping, Set
from functools import partial
from hashlib import sha256
from pathlib import PurePath
from typing import Any

import monai
import numpy as np
import torch
from monai.data import MetaTensor

import custom_nets
from custom_nets.errors import InputError

_NO_SETTINGS = (random.Random, np.random.RandomState, np.random.Generator, torch.Generator, threading.local)
"""Attributes of a transform that are no settings: random states, and MONAI's local of the running thread."""

_NAMED = (torch.dtype, torch.device, np.dtype, types.ModuleType, type(None), bool, int, float, complex, bytes)
"""Types whose `repr` tells all."""


def hash_case(item: Any) -> bytes:
    """Returns a hash of a data item, for `hash_func` of MONAI's persistent data sets.

    It changes with the item's content, and with size or time of modification of every file that it names; of a folder
    (a DICOM series) with names, sizes and times of the files directly in it.

    Args:
        item: names of files and folders, numbers, texts, arrays, in any nesting of mappings and sequences.
    """
    return _hash(f"{describe(item)} {list(_states(item))}")


def hash_settings(transforms: Any) -> bytes:
    """Returns a hash of transforms, for `hash_transform` of MONAI's persistent data sets.

    It is the same for the same settings, in any process, and changes with the classes, their order, every setting, and
    the versions of this package and of MONAI. Code that is changed without its version is not noticed.

    Args:
        transforms: transforms without random ones, or any nesting of settings.

    Raises:
        InputError: when a setting cannot be compared, such as a lambda.
    """
    return _hash(f"{custom_nets.__version__} {monai.__version__} {describe(transforms)}")


def describe(value: Any, within: tuple[Any, ...] = ()) -> str:
    """Returns a text that two settings share when, and only when, they are equal; where they lie in memory aside.

    Args:
        value: a setting, a transform, or any nesting of them.
        within: the objects that it lies in, outermost first.

    Raises:
        InputError: when it cannot be compared.
    """
    for depth, outer in enumerate(within):
        if value is outer:
            return f"outer {depth}"
    inner = (*within, value)
    kind = type(value)
    if isinstance(value, (str, PurePath)):
        return repr(os.fspath(value) if isinstance(value, PurePath) else str.__str__(value))
    if isinstance(value, _NAMED):
        return f"{kind.__name__} {value!r}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(describe(part, inner) for part in value)}]"
    if isinstance(value, Mapping):
        pairs = sorted(f"{describe(key, inner)}: {describe(part, inner)}" for key, part in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, Set):
        return f"{{{', '.join(sorted(describe(part, inner) for part in value))}}}"
    if isinstance(value, torch.Tensor):
        meta = describe(value.meta, inner) if isinstance(value, MetaTensor) else ""
        flat = value.detach().as_subclass(torch.Tensor).cpu().contiguous().reshape(-1)
        return f"tensor {value.dtype} {tuple(value.shape)} {_hash(flat.view(torch.uint8).numpy().tobytes())!r} {meta}"
    if isinstance(value, (np.ndarray, np.generic)) and not value.dtype.hasobject:
        return f"array {value.dtype} {value.shape} {_hash(value.tobytes())!r}"
    if isinstance(value, _NO_SETTINGS):
        return kind.__name__
    if isinstance(value, partial):
        return f"partial {describe((value.func, value.args, value.keywords), inner)}"
    if isinstance(value, types.MethodType):
        return f"method {describe((value.__func__, value.__self__), inner)}"
    if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)) and "<" not in value.__qualname__:
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, np.ufunc):
        return f"ufunc {value.__name__}"
    if hasattr(value, "__dict__") and not isinstance(value, types.FunctionType):
        settings = {name: part for name, part in vars(value).items() if not isinstance(part, threading.local)}
        return f"{kind.__module__}.{kind.__qualname__} {describe(settings, inner)}"
    place = " > ".join(type(outer).__name__ for outer in inner if not isinstance(outer, (dict, list, tuple)))
    msg = (
        f"{place}: a setting of this type cannot be compared with that of an earlier run; put the transform after the "
        "random ones, or do without a cache folder (cache_dir: null)"
    )
    raise InputError(msg)


def _hash(content: str | bytes) -> bytes:
    return sha256(content.encode() if isinstance(content, str) else content).hexdigest().encode()


def _states(item: Any) -> Iterator[tuple[str | int, ...]]:
    """The states of the files that an item names, in an order that depends on its content alone."""
    if isinstance(item, (str, PurePath)):
        if os.path.isfile(item):
            yield _state(os.stat(item))
        elif os.path.isdir(item):
            files = (entry for entry in os.scandir(item) if entry.is_file())
            yield from ((file.name, *_state(file.stat())) for file in sorted(files, key=lambda entry: entry.name))
    elif isinstance(item, Mapping):
        for key in sorted(item, key=describe):
            yield from _states(item[key])
    elif isinstance(item, (list, tuple)):
        for part in item:
            yield from _states(part)


def _state(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns

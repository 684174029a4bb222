"""Time and memory of the parts of a program, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from _memory import resident, restart_peak


class Stages:
    """Rows of seconds, and of the process's memory at its highest and afterwards."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def measure(self, name: str, function: Callable[[], Any]) -> Any:
        """The result of a stage, whose row is kept."""
        restart_peak()
        start = time.perf_counter()
        result = function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        row = {"component": name, "s": seconds, "peak GiB": resident("VmHWM") / 2**30}
        self.rows.append(row | {"GiB after": resident("VmRSS") / 2**30})
        return result

    def apply(self, transforms: Iterable[Any], item: Any) -> Any:
        """What a chain of transforms makes of an item, a stage each; those within a transform have their own."""
        for transform in transforms:
            for part in getattr(transform, "transforms", [transform]):
                item = self.measure(type(part).__name__, lambda p=part, i=item: p(i))
        return item

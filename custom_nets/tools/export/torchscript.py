"""TorchScript files of a network's parts."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from custom_nets.tools.export.parts import Part


def write_torchscript(part: Part, path: Path, size: Sequence[int], dynamic: bool) -> None:
    """Writes a part: a loop over chunks of points as code, all else traced; it takes images of every size.

    Args:
        part: to export.
        path: of the file.
        size: of the image that is traced (H, W, D).
        dynamic: as it is.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # notes of the tracer on comparisons in layers of PyTorch
        torch.jit.save(_script(part, size), path)


def run_torchscript(path: Path, inputs: dict[str, Tensor]) -> list[Tensor]:
    """Runs a file on the CPU."""
    with torch.no_grad():
        result = torch.jit.load(path, map_location="cpu")(*inputs.values())
    return list(result) if isinstance(result, (tuple, list)) else [result]


def _script(part: Part, size: Sequence[int]) -> torch.jit.ScriptModule:
    if part.whole is not None:
        return torch.jit.script(part.whole)
    inputs = part.draw(size, 1)
    with torch.no_grad():
        return torch.jit.trace(part.module, tuple(inputs.values()), check_trace=False)

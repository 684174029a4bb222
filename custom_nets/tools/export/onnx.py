"""ONNX files of a network's parts, compared with the network itself."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from monai.utils import optional_import
from torch import Tensor

from custom_nets.errors import InputError
from custom_nets.tools.export.parts import Part

_OPSET = 20
_LONGEST = 4096  # voxels of a side, cells of a map; a bound is all that the exporter wants
_ADVICE = "install the packages of the extra, pip install 'custom-nets[export]'"


def require_onnx() -> None:
    """Refuses to go on without the packages.

    Raises:
        InputError: when one of onnx, onnxscript and onnxruntime is missing.
    """
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if not optional_import(name)[1]]
    if missing:
        msg = f"--format onnx needs {', '.join(missing)}; {_ADVICE}, or take --format torchscript"
        raise InputError(msg)


def write_onnx(part: Part, path: Path, size: Sequence[int], dynamic: bool) -> None:
    """Writes a part.

    PyTorch's exporter by `torch.export` is taken: it refuses a graph that holds for one size only where others were
    asked for (one by TorchScript would be written all the same), and it is the one that is still developed.

    Args:
        part: to export.
        path: of the file.
        size: of the image that is traced (H, W, D).
        dynamic: whether axes may have other lengths.
    """
    inputs = part.draw(size, 2 if dynamic else 1)
    shapes = tuple(_axes_of(part, name) for name in inputs) if dynamic else None
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            part.module.eval(),
            tuple(inputs.values()),
            dynamo=True,
            # Modules of several inputs take them as `*inputs`.
            dynamic_shapes=shapes if shapes is None or _takes_one(part) else (shapes,),
            input_names=list(inputs),
            output_names=part.outputs,
            opset_version=_OPSET,
            verbose=False,
        )
        assert program is not None
        program.save(path, external_data=False)


def run_onnx(path: Path, inputs: dict[str, Tensor]) -> list[Tensor]:
    """Runs a file by onnxruntime on the CPU."""
    runtime, _ = optional_import("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(array) for array in session.run(None, {k: v.numpy() for k, v in inputs.items()})]


def _takes_one(part: Part) -> bool:
    return part.module.forward.__code__.co_flags & 0x04 == 0  # no *inputs


def _axes_of(part: Part, name: str) -> dict[int, Any]:
    """The axes of an input that may have other lengths, in the exporter's words."""
    axes: dict[int, Any] = {}
    for axis, label in part.axes[name].items():
        if name == "image" and axis > 1 and part.multiple > 1:
            axes[axis] = part.multiple * torch.export.Dim(f"{label}_by_{part.multiple}", min=1, max=_LONGEST)
        else:
            axes[axis] = torch.export.Dim(label, min=1, max=10**9 if label == "N" else _LONGEST)
    return axes


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's notes on its own insides from the person at the keyboard."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)

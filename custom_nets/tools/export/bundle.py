"""Export of a bundle's network to ONNX or TorchScript, each file compared with the network before it is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from custom_nets.errors import InputError
from custom_nets.io.files import atomic_file
from custom_nets.io.model_settings import check_settings
from custom_nets.io.weights import load_weights
from custom_nets.networks.base import divisor_of
from custom_nets.tools.bundle_config import check_shape, read_bundle
from custom_nets.tools.export.onnx import require_onnx, run_onnx, write_onnx
from custom_nets.tools.export.parts import Part, export_parts
from custom_nets.tools.export.torchscript import run_torchscript, write_torchscript

TOLERANCE = 1e-4
"""Largest difference of a file's output from the network's that is accepted."""

DEFAULT_SHAPE = (48, 56, 40)
_SEED = 0

Write = Callable[[Part, Path, Sequence[int], bool], None]
Run = Callable[[Path, dict[str, Tensor]], list[Tensor]]

FORMATS: dict[str, tuple[str, Write, Run]] = {
    "onnx": (".onnx", write_onnx, run_onnx),
    "torchscript": (".ts", write_torchscript, run_torchscript),
}


@dataclass
class ExportedFile:
    """A file that was written, and how near it comes to the network.

    Attributes:
        path: of the file.
        inputs: each with the names or lengths of its axes.
        megabytes: size of the file.
        shapes: sizes of the images that it was compared on (H, W, D).
        difference: largest absolute difference of an output.
    """

    path: Path
    inputs: dict[str, list[str | int]]
    megabytes: float
    shapes: list[tuple[int, ...]]
    difference: float


def export_bundle(
    bundle: str | Path,
    output: str | Path,
    file_format: str = "onnx",
    configs: str | Sequence[str] = (),
    shape: Sequence[int] = DEFAULT_SHAPE,
    dynamic: bool = True,
    untrained: bool = False,
    keys: dict[str, Any] | None = None,
) -> list[ExportedFile]:
    """Exports the network of a bundle: NvNet as one file, OSS-Net as encoder, decoder and the dense whole.

    Args:
        bundle: its folder.
        output: folder to write to.
        file_format: `onnx` or `torchscript`.
        configs: names of config files after inference.json, such as `variant`.
        shape: of the image that is traced (H, W, D).
        dynamic: whether images of other sizes may be given to the files; those of TorchScript always take them.
        untrained: take random numbers for weights, instead of the file `load_model` (of the config, models/model.pt).
        keys: of the configs, as on the command line of a run.

    Raises:
        InputError: when something is not there, a package is missing, or a file's output differs from the network's by
            more than `TOLERANCE`; this file is not kept.
    """
    if file_format not in FORMATS:
        msg = f"format '{file_format}' is unknown; expected {' or '.join(FORMATS)}"
        raise InputError(msg)
    check_shape(shape)
    if file_format == "onnx":
        require_onnx()
    parser, in_channels = read_bundle(bundle, configs, keys)
    network = parser.get_parsed_content("network_def").eval()
    multiple = divisor_of(network)
    if any(side % multiple for side in shape):
        msg = f"shape is {tuple(shape)}; this network takes sides that are multiples of {multiple}"
        raise InputError(msg)
    if untrained:
        fill_with_random_numbers(network)
    else:
        path = parser.get_parsed_content("load_model")
        check_settings(path, load_weights(network, path), parser.get_parsed_content("model_keys"), strict=True)
    parts = export_parts(network, in_channels, multiple)
    return [export_part(part, Path(output), file_format, shape, dynamic) for part in parts]


def export_part(part: Part, folder: Path, file_format: str, shape: Sequence[int], dynamic: bool = True) -> ExportedFile:
    """Writes a part of a network and compares it, on the traced size and, where axes are dynamic, on another.

    Raises:
        InputError: when an output differs by more than `TOLERANCE`; the file is not kept then.
    """
    suffix, write, run = FORMATS[file_format]
    dynamic = dynamic or file_format == "torchscript"
    shapes = [tuple(shape)]
    if dynamic:
        # Other remainders by every downsampling, but multiples of what the network wants.
        shapes.append(tuple(side + part.multiple * (axis + 1) for axis, side in enumerate(shape)))
    path = folder / f"{part.name}{suffix}"
    with atomic_file(path) as temporary, torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(_SEED)
        write(part, temporary, shape, dynamic)
        differences = torch.tensor([_difference(part, run, temporary, size) for size in shapes])
        difference = differences.max().item()
        if not difference <= TOLERANCE:  # so that what is not a number is refused too
            msg = (
                f"{path}: its output differs from the network's by {difference:.2g}, more than {TOLERANCE:g}; it was "
                "not kept. Try another --format, or other versions of PyTorch and onnxruntime"
            )
            raise InputError(msg)
        megabytes = temporary.stat().st_size / 1e6
        example = part.draw(shape, 1)
    axes = part.axes if dynamic else {}
    inputs = {
        name: [axes.get(name, {}).get(axis, side) for axis, side in enumerate(tensor.shape)]
        for name, tensor in example.items()
    }
    return ExportedFile(path, inputs, megabytes, shapes, difference)


def fill_with_random_numbers(network: nn.Module) -> None:
    """Gives a network that was never trained random weights, also where it starts from 0 and would pass nothing on."""
    generator = torch.Generator().manual_seed(_SEED)
    with torch.no_grad():
        for parameter in network.parameters():
            # On the scale of the usual initialisation, so that the numbers keep the size of a trained network's.
            scale = 0.5 / max(parameter[0].numel(), 1) ** 0.5 if parameter.ndim > 1 else 0.05
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def format_exports(files: Sequence[ExportedFile]) -> str:
    """Returns a table of the files in Markdown."""
    lines = ["| file | inputs | MB | compared on | largest difference |", "| --- | --- | --- | --- | --- |"]
    for file in files:
        inputs = "; ".join(f"{name} [{', '.join(map(str, axes))}]" for name, axes in file.inputs.items())
        shapes = ", ".join("x".join(map(str, shape)) for shape in file.shapes)
        lines.append(f"| {file.path.name} | {inputs} | {file.megabytes:.1f} | {shapes} | {file.difference:.1e} |")
    return "\n".join(lines)


def _difference(part: Part, run: Run, path: Path, size: Sequence[int]) -> float:
    inputs = part.draw(size, 1)
    expected = part.module(*inputs.values())
    expected = expected if isinstance(expected, tuple) else (expected,)
    pairs = zip(run(path, inputs), expected, strict=True)
    return torch.stack([(result - wanted).abs().max() for result, wanted in pairs]).max().item()

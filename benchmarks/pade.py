"""The Padé activation, forward and backward, against ReLU, GELU and the naive formula: time and share of bandwidth.

The least that can move is x and y forward, and x, the gradient and its result backward: five tensors. What is reached
of the bandwidth is that, over the time, as a share of what a copy reaches in the same run. On a GPU each time is
that of twenty calls in a row: the device does not wait between them, and of one alone the launch would be a large part.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from _original import naive_pade
from _report import median_seconds, report
from torch import Tensor, nn

from custom_nets.networks import PadeActivation
from custom_nets.networks.pade import activation as pade_module


class NaivePade(PadeActivation):
    """The formula as it is written, for autograd to differentiate."""

    def forward(self, x: Tensor) -> Tensor:
        return naive_pade(x.float(), self).to(x.dtype)


def not_compiled(function: Callable[[], Any]) -> Callable[[], Any]:
    """Runs a function as where nothing can be compiled."""

    def run() -> None:
        kernels = pade_module._kernels("cuda" if torch.cuda.is_available() else "cpu", True)
        works, kernels.works = kernels.works, False
        function()
        kernels.works = works

    return run


def in_a_row(function: Callable[[], Any], calls: int) -> Callable[[], Any]:
    """Calls a function so many times."""

    def run() -> None:
        for _ in range(calls):
            function()

    return run


def kept_bytes(layer: nn.Module, x: Tensor) -> float:
    """Bytes an element that the backward pass keeps, the input itself included."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.numel() >= x.numel():
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = layer(x)
    total = sum(kept.values()) / x.numel()
    del y
    return total


def measure(elements: int, dtype: torch.dtype, device: str, repeats: int) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    x = torch.randn(elements // 512, 512, device=device, dtype=dtype, requires_grad=True)
    grad, target = torch.randn_like(x), torch.empty_like(x)
    layers = {"ReLU": nn.ReLU(), "GELU": nn.GELU(), "Padé": PadeActivation(), "Padé, naive formula": NaivePade()}
    layers["Padé, not compiled"] = PadeActivation()
    runs: dict[str, Callable[[], Any]] = {}
    for name, layer in layers.items():
        layer.to(device)
        runs[f"{name}|forward"] = lambda layer=layer: layer(x)
        runs[f"{name}|both"] = lambda layer=layer: layer(x).backward(grad)
    for part in ("forward", "both"):
        runs[f"Padé, not compiled|{part}"] = not_compiled(runs[f"Padé, not compiled|{part}"])
    runs["copy|"] = lambda: target.copy_(x.detach())
    calls = 20 if x.is_cuda else 1
    several = median_seconds({name: in_a_row(run, calls) for name, run in runs.items()}, repeats, warmup=1)
    seconds = {name: value / calls for name, value in several.items()}
    size = x.numel() * x.element_size()
    bandwidth = 2 * size / seconds["copy|"]
    rows = []
    for name, layer in layers.items():
        both, forward = seconds[f"{name}|both"], seconds[f"{name}|forward"]
        reached = 5 * size / both
        row: dict[str, Any] = {"activation": f"{name}, {str(dtype).partition('.')[2]}", "forward, ms": forward * 1e3}
        row |= {"forward and backward, ms": both * 1e3, "times ReLU": both / seconds["ReLU|both"]}
        row |= {"GB/s": reached / 1e9, "of a copy's bandwidth": reached / bandwidth}
        rows.append(row | {"bytes kept an element": kept_bytes(layer, x)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=int, help="default: 2^22 on a CPU, 2^27 on a GPU")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    elements = options.elements or (2**27 if device == "cuda" else 2**22)
    rows = [
        row for dtype in (torch.float32, torch.bfloat16) for row in measure(elements, dtype, device, options.repeats)
    ]
    report(f"pade_{device}", f"Activations, {elements:,} elements", rows, "forward and backward, ms")


if __name__ == "__main__":
    main()

"""The patch mapping as matrix products, forward and backward, against the convolutions that it equals."""

import argparse

import torch
from _report import median_seconds, report
from torch import nn

from custom_nets.networks.ossnet.patches import PatchMapping


class ConvolutionalMapping(nn.Module):
    """The patch mapping as the published code computes it, with the weights of a `PatchMapping`."""

    def __init__(self, mapping: PatchMapping) -> None:
        super().__init__()
        layers = []
        for ours, activation in ((mapping.conv1, mapping.act1), (mapping.conv2, mapping.act2)):
            conv = nn.Conv3d(ours.weight.shape[1], ours.weight.shape[0], 7, padding=3)
            conv.load_state_dict(ours.state_dict())
            layers += [conv, activation]
        self.layers = nn.Sequential(*layers)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Maps patches `[N, C, 7, 7, 7]`."""
        return self.layers(patches).flatten(1)


def step(layer: nn.Module, x: torch.Tensor) -> None:
    layer(x).sum().backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)

    mapping = PatchMapping(4).to(device)
    convolutions = ConvolutionalMapping(mapping).to(device)
    patches = torch.randn(options.points, 4, 7, 7, 7, device=device)
    torch.testing.assert_close(mapping(patches[None])[0], convolutions(patches), atol=1e-4, rtol=1e-3)
    seconds = median_seconds(
        {
            "matrix products": lambda: step(mapping, patches[None]),
            "convolutions": lambda: step(convolutions, patches),
        },
        options.repeats,
    )
    fastest = seconds["matrix products"]
    rows = [{"patch mapping": n, "ms": s * 1e3, "times matrix products": s / fastest} for n, s in seconds.items()]
    report("patches", f"Patch mapping, forward + backward, {options.points:,} points, equal results", rows, "ms")


if __name__ == "__main__":
    main()

"""Parts of a network for export: tensors in and out, their names, and random inputs of any size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from custom_nets.networks.base import OccupancyNetwork
from custom_nets.networks.torchscript import LatentLayout, latent_tensors

Draw = Callable[[Sequence[int], int], dict[str, Tensor]]
_SIDES = "hwd"
_POINTS = 1000  # of an example


@dataclass
class Part:
    """A part of a network that becomes a file of its own.

    Attributes:
        name: of the file, without suffix.
        module: maps the inputs, in their order, to one tensor or a tuple of them.
        draw: random inputs by name, for an image's size (H, W, D) and a number of images.
        outputs: names.
        axes: names of the axes that may have other lengths, by input and number of the axis.
        multiple: sides of the image must be multiples of this.
        whole: the network, where the part is all of it.
    """

    name: str
    module: nn.Module
    draw: Draw
    outputs: list[str]
    axes: dict[str, dict[int, str]]
    multiple: int = 1
    whole: nn.Module | None = None


def export_parts(network: nn.Module, in_channels: int, multiple: int) -> list[Part]:
    """Divides a network: an occupancy network into encoder, decoder and the dense whole, others not at all.

    Args:
        network: set to evaluation.
        in_channels: channels C of its image.
        multiple: what sides of its image must be multiples of.
    """

    def draw_image(size: Sequence[int], batch: int) -> dict[str, Tensor]:
        return {"image": torch.rand(batch, in_channels, *size)}

    axes = {"image": _image_axes()}
    if not isinstance(network, OccupancyNetwork):
        return [Part("network", network, draw_image, ["logits"], axes, multiple, network)]

    def draw_scan(size: Sequence[int], batch: int) -> dict[str, Tensor]:
        spacing = torch.tensor([[0.8, 1.0, 1.5]]).expand(batch, 3) * torch.linspace(1, 0.9, batch)[:, None]
        return draw_image(size, batch) | ({"spacing": spacing.contiguous()} if network.counts_in_mm else {})

    def draw_points(size: Sequence[int], batch: int) -> dict[str, Tensor]:
        scan = draw_scan(size, batch)
        points = (torch.rand(batch, _POINTS // batch, 3) * torch.tensor(size)).long()
        points[:, 0], points[:, 1] = 0, torch.tensor(size) - 1
        return _read_by_the_decoder(network, _encode(network, scan)) | {"image": scan["image"], "points": points}

    with torch.no_grad():
        scan = draw_scan((16, 16, 16), 1)
        layout = LatentLayout.of(network.encode_spaced(*_with_spacing(*scan.values())))
        latent = _encode(network, scan)
    scan_axes = axes | ({"spacing": {0: "B"}} if network.counts_in_mm else {})
    point_axes = {name: _latent_axes(name, tensor) for name, tensor in _read_by_the_decoder(network, latent).items()}
    point_axes |= axes | {"points": {0: "B", 1: "N"}}
    names = [name for name in latent if name != "spacing"]  # which is given, not found
    parts = [
        Part("encoder", _Encoder(network, names), draw_scan, names, scan_axes),
        Part("decoder", _Decoder(network, layout, list(latent), list(point_axes)), draw_points, ["logits"], point_axes),
        Part("network", _Dense(network), draw_scan, ["logits"], scan_axes, whole=network),
    ]
    for part in parts:
        part.module.eval()
    return parts


def _image_axes() -> dict[int, str]:
    return {0: "B"} | {i + 2: side for i, side in enumerate(_SIDES.upper())}


def _latent_axes(name: str, tensor: Tensor) -> dict[int, str]:
    """Those of a feature map depend on the image; latent vectors have one length."""
    level = name.rpartition("_")[2]
    sides = {i + 1: f"{side}{level}" for i, side in enumerate(_SIDES)} if tensor.ndim == 5 else {}
    return {0: "B"} | sides


def _encode(network: Any, scan: dict[str, Tensor]) -> dict[str, Tensor]:
    spacing = scan.get("spacing", torch.ones(len(scan["image"]), 3))
    return latent_tensors(network.encode_spaced(scan["image"], spacing))


def _read_by_the_decoder(network: Any, latent: dict[str, Tensor]) -> dict[str, Tensor]:
    unread = {"segmentation"} | (set() if network.counts_in_mm else {"spacing"})
    return {name: tensor for name, tensor in latent.items() if name not in unread}


class _Encoder(nn.Module):
    def __init__(self, network: Any, names: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.names = names

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        latent = latent_tensors(self.network.encode_spaced(*_with_spacing(*inputs)))
        return tuple(latent[name] for name in self.names)


class _Decoder(nn.Module):
    def __init__(self, network: Any, layout: LatentLayout, latent: Sequence[str], inputs: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.layout = layout
        self.latent = latent
        self.inputs = inputs

    def forward(self, *inputs: Tensor) -> Tensor:
        given = dict(zip(self.inputs, inputs, strict=True))
        # What the decoder does not read has its place in a latent all the same.
        latent = [given.get(name, given["image"]) for name in self.latent]
        return self.network.decode(self.layout.restore(latent), given["image"], given["points"])


class _Dense(nn.Module):
    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor:
        image, spacing = _with_spacing(*inputs)
        return self.network.decode_dense(self.network.encode_spaced(image, spacing), image)


def _with_spacing(image: Tensor, spacing: Tensor | None = None) -> tuple[Tensor, Tensor]:
    return image, torch.ones_like(image[:, 0, 0, 0, :1]).expand(-1, 3) if spacing is None else spacing

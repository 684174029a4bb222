"""Estimate of the memory of an inference, before it is run."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from custom_nets.inferers.ensemble import EnsembleInferer
from custom_nets.inferers.occupancy import OccupancyInferer
from custom_nets.inferers.occupancy_ensemble import OccupancyEnsemble
from custom_nets.inferers.surface_search.settings import OccupancyMode
from custom_nets.networks import PadeActivation
from custom_nets.networks.base import divisor_of


def estimate_memory(
    network: Any,
    inferer: Any,
    shape: Sequence[int],
    device: torch.device,
    image_dtype: torch.dtype = torch.float32,
    autocast: torch.dtype | None = None,
) -> dict[str, float]:
    """Estimates what the inference of one volume holds at its peak, by part.

    Of the network no number is computed: PyTorch's memory tracker follows its forward pass on tensors without data. A
    chunk of points counts as the network estimates it. Not counted are workspaces of convolution libraries (a GPU's can
    be as large as all the rest), Python and PyTorch themselves (about 0.4 GiB), and what happens before and after.

    Args:
        network: an occupancy network, or one that maps images to logits.
        inferer: an `OccupancyInferer`, or an `EnsembleInferer` of one; any other stands for one pass over the image.
        shape: of the image (C, H, W, D), whose sides are padded to what the network takes; where it counts in mm, its
            voxels count as 1 mm.
        device: where it is to run.
        image_dtype: of the image.
        autocast: precision of the network where it is not its weights'.

    Returns:
        GiB of `image`, `weights`, `encoder` (beyond both), `points` (one chunk, and what is kept for all of them),
        `search`, `result`, and `peak`: the most that is held at a time.
    """
    views, copies, spread = 1, 1, False
    if isinstance(inferer, EnsembleInferer):
        views, copies, spread = 2 ** len(inferer.mirror_axes), 1 + len(inferer.checkpoints), inferer.spread
        inferer = inferer.inferer
    occupancy = isinstance(inferer, OccupancyInferer)
    members = views * max(copies - 1, 1) if occupancy else 1
    divisor = divisor_of(network)
    shape = [shape[0], *(-(-side // divisor) * divisor for side in shape[1:])]
    stand_in = _without_activations(network)
    precision = torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None)
    with FakeTensorMode(allow_non_fake_inputs=True):
        image = torch.empty(1, *shape, dtype=image_dtype)
        tracker = MemTracker()
        with torch.no_grad(), precision:
            with tracker:
                output = stand_in.encode(image) if occupancy else stand_in(image.float())
                kept = members * _bytes_of(output)
            regions = _regions_of(stand_in, output, image) if occupancy else 0
    weights = sum(_bytes_of(tensor) for tensor in (*network.parameters(), *network.buffers()))
    forward = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"] - weights
    voxels = math.prod(shape[1:])
    parts: dict[str, float] = {"image": image.numel() * image.element_size(), "weights": weights * copies}
    parts["encoder"] = max(forward, kept)
    parts["points"] = parts["search"] = 0
    parts["result"] = kept * (1 if views * copies == 1 and not spread else 3 if spread else 2)
    if occupancy:
        ensemble = OccupancyEnsemble([network] * max(copies - 1, 1), [()] + [(0,)] * (views - 1))
        chunk = min(inferer.chunk.choose(network, device), voxels)
        parts["points"] = chunk * ensemble.bytes_per_point + ensemble.prepared_bytes(image)
        regions *= 2 if spread else 1
        parts["result"] = voxels * regions * torch.empty(0, dtype=inferer.output_dtype).element_size()
        if inferer.search.mode == OccupancyMode.SURFACE:
            # A mark for each voxel; margins, sides and marks of the lattice of every second one, and a copy of them.
            parts["search"] = voxels + voxels // 8 * (2 * 4 * regions + 2 * regions + 1)
        elif inferer.search.mode == OccupancyMode.PUBLISHED:
            parts["search"] = 3 * voxels * regions
    later = kept + parts["points"] + parts["search"] + parts["result"] if occupancy else 0
    parts["peak"] = parts["image"] + parts["weights"] + max(parts["encoder"], later)
    return {name: size / 2**30 for name, size in parts.items()}


class _Copy(nn.Module):
    """Memory of a fused activation: one tensor more."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clone()


def _without_activations(network: Any) -> Any:
    """The network with activations that hold what the compiled ones do, not what plain operations would."""
    stand_in = copy.deepcopy(network).cpu().eval()
    for module in list(stand_in.modules()):
        for name, child in module.named_children():
            if isinstance(child, PadeActivation):
                setattr(module, name, _Copy())
    return stand_in


def _bytes_of(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    return sum(_bytes_of(part) for part in value) if isinstance(value, (tuple, list)) else 0


def _regions_of(network: Any, latent: Any, image: Tensor) -> int:
    """Logits of a point, as the decoder gives them."""
    return network.decode(latent, image, torch.zeros(1, 1, 3, dtype=torch.int64)).shape[-1]

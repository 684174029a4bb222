"""A network at its full cost whose answer is known, so that an untrained one meets a realistic search and result."""

from __future__ import annotations

from typing import Any

import nibabel
import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from custom_nets.networks.base import Decoder, OccupancyNetwork
from custom_nets.networks.geometry import plain_tensor
from custom_nets.transforms import LabelsToRegions


class KnownAnswer(nn.Module, OccupancyNetwork):
    """Encodes and decodes with a real network, then throws its logits away and answers with those of a label map.

    The logits are those of the share of the 27 voxels round a voxel that are labelled: a border a few voxels wide, as
    a trained network gives. A point is looked up in the label's own grid, through both affines, so that the answer is
    true after any crop, flip or resampling. The look-up costs a few operations a point.

    Args:
        network: an occupancy network.
        label_file: label map on any grid in the same space as the images.
        dataset: of its numbers, the name of a record.
    """

    def __init__(self, network: OccupancyNetwork, label_file: str, dataset: str) -> None:
        super().__init__()
        self.network = network
        label: Any = nibabel.load(label_file)
        numbers = torch.from_numpy(label.get_fdata(dtype="float32"))[None]
        regions = LabelsToRegions(dataset)(numbers).as_subclass(Tensor)
        self.register_buffer("labelled", torch.stack([_count_labelled(region) for region in regions]), persistent=False)
        self.to_label_voxels = torch.linalg.inv(torch.from_numpy(label.affine))
        self.to_label = torch.eye(4)

    def preferred_chunk(self, device: torch.device) -> int | None:
        return self.network.preferred_chunk(device)

    def encode(self, image: MetaTensor) -> Any:
        """Encodes `[1, C, H, W, D]`; the auxiliary segmentation is replaced by the known one."""
        self.to_label = (self.to_label_voxels @ image.affine.cpu().double().reshape(-1, 4, 4)[0]).float()
        latent = self.network.encode(image)
        if latent.segmentation is None:
            return latent
        cells = latent.segmentation.shape[2:]
        size = image.shape[2:]
        axes = [(torch.arange(n) + 0.5) * (side / n) - 0.5 for n, side in zip(cells, size, strict=True)]
        centres = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(1, -1, 3).to(image.device)
        logits = self._answer(centres).movedim(-1, 1).reshape(latent.segmentation.shape)
        return latent._replace(segmentation=logits.to(latent.segmentation.dtype))

    def decode(self, latent: Any, image: Tensor, points: Tensor) -> Tensor:
        """Decodes points `[1, N, 3]` and returns the known logits `[1, N, R]`."""
        self.network.decode(latent, image, points)
        return self._answer(points)

    def prepare_decoder(self, latent: Any, image: Tensor, dtype: torch.dtype | None = None) -> Decoder:
        """`decode` for one volume, see `OccupancyNetwork.prepare_decoder`."""
        decode = self.network.prepare_decoder(latent, image, dtype)

        def answer(points: Tensor) -> Tensor:
            decode(points)
            return self._answer(points)

        return answer

    @property
    def bytes_per_point(self) -> int:
        return self.network.bytes_per_point

    def prepared_bytes(self, image: Tensor) -> int:
        return self.network.prepared_bytes(image)

    def _answer(self, points: Tensor) -> Tensor:
        matrix = self.to_label.to(points.device)
        voxels = (plain_tensor(points).float()[0] @ matrix[:3, :3].T + matrix[:3, 3]).round().long()
        size = torch.tensor(self.labelled.shape[1:], device=points.device)
        inside = ((voxels >= 0) & (voxels < size)).all(dim=1)
        x, y, z = voxels.clamp(torch.zeros_like(size), size - 1).unbind(1)
        labelled = torch.where(inside, self.labelled[:, x, y, z], 0).float()
        return ((labelled + 0.5) / (27.5 - labelled)).log().T[None]


def _count_labelled(region: Tensor) -> Tensor:
    """Labelled voxels among the 27 round each voxel of a binary region `[H, W, D]`."""
    counts = region
    for axis in range(3):
        padded = torch.zeros([n + 2 * (a == axis) for a, n in enumerate(region.shape)], dtype=torch.uint8)
        padded.narrow(axis, 1, region.shape[axis]).copy_(counts)
        counts = sum(padded.narrow(axis, start, region.shape[axis]) for start in range(3))
    return counts

"""The networks that are compared, each with the training step and the inference that suit it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from monai.losses import DiceLoss
from monai.networks.nets import SegResNet, UNet
from monai.transforms import Compose, RandFlipd, RandGaussianNoised, RandScaleIntensityd, RandShiftIntensityd
from torch import Tensor, nn

from custom_nets.inferers import OccupancyInferer, SearchSettings
from custom_nets.losses import OccupancyLoss
from custom_nets.networks import OSSNet, PyramidOSSNet, PyramidSettings
from custom_nets.transforms import AuxiliaryTargetd, BorderMap, SamplePointsd

MODALITIES, REGIONS = 4, 3
_SETTINGS = {field.name for field in fields(PyramidSettings)}


class DenseMethod:
    """A convolutional network: the whole image in, every voxel out; Dice + BCE."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.dice = DiceLoss(sigmoid=True, batch=True)

    def loss(self, *items: dict[str, Tensor], device: torch.device) -> Tensor:
        """Forward pass of a batch of cases."""
        logits = self.network(torch.stack([item["image"] for item in items]).to(device))
        target = torch.stack([item["label"] for item in items]).to(device, torch.float32)
        return self.dice(logits, target) + nn.functional.binary_cross_entropy_with_logits(logits, target)

    def predict(self, image: Tensor) -> Tensor:
        """Probabilities `[1, R, H, W, D]`."""
        return self.network(image).sigmoid()


class PointMethod:
    """An occupancy network: the image and some points in, their answers out.

    Args:
        network: with `encode` and `decode`.
        size: of the images.
        points: a case and step.
        border_balance: share of points near a border.
        uncertain_share: share of points that the network chooses.
        dice_weight: of the soft Dice loss.
        auxiliary_weight: of the auxiliary segmentation.
        seed: of the points.
    """

    def __init__(
        self,
        network: nn.Module,
        size: tuple[int, ...],
        points: int,
        border_balance: float,
        uncertain_share: float,
        dice_weight: float,
        auxiliary_weight: float,
        seed: int,
    ) -> None:
        self.network = network
        self.sampler = SamplePointsd(
            num_points=points, border_balance=border_balance, uncertain_share=uncertain_share
        ).set_random_state(seed)
        self.criterion = OccupancyLoss(auxiliary_weight, dice_weight=dice_weight)
        self.auxiliary = AuxiliaryTargetd(size=[max(side // 8, 1) for side in size])
        # A lattice of every second voxel, then every voxel at a surface: only specks of one voxel can slip through.
        self.inferer = OccupancyInferer(SearchSettings(coarse_step=2))

    def loss(self, item: dict[str, Tensor], device: torch.device) -> Tensor:
        """Forward pass of one case."""
        # Before the network runs, as a loader does: the dense target is never in memory beside the activations.
        sample = self.auxiliary(self.sampler(item))
        sampler = self.sampler.sampler
        outputs = self.network(
            item["image"][None].to(device),
            sample["points"][None].to(device),
            candidates=sampler.num_candidates,
            uncertain=sampler.num_uncertain,
        )
        targets = (sample["point_labels"][None].to(device), sample["auxiliary_target"][None].to(device))
        return self.criterion(outputs, targets)

    def predict(self, image: Tensor) -> Tensor:
        """Probabilities `[1, R, H, W, D]`."""
        return self.inferer(image, self.network)


@dataclass(frozen=True)
class Recipe:
    """How a method is built and trained.

    Attributes:
        network: makes the network for an image size.
        learning_rate: of AdamW, chosen on the validation cases.
        points: points a step; 0 for a convolutional network.
        sampling: further arguments of `PointMethod`.
        batch: images a step, of a convolutional network.
    """

    network: Callable[[tuple[int, ...]], nn.Module]
    learning_rate: float
    points: int = 0
    sampling: dict[str, Any] = field(default_factory=dict)
    batch: int = 1

    def build(self, size: tuple[int, ...], seed: int) -> DenseMethod | PointMethod:
        """Makes the method for images of `size`."""
        network = self.network(size)
        if not self.points:
            return DenseMethod(network)
        keys = {"border_balance": 0.5, "uncertain_share": 0.0, "dice_weight": 0.0, "auxiliary_weight": 0.1}
        return PointMethod(network, size, self.points, seed=seed, **{**keys, **self.sampling})


def ossnet(variant: str) -> Callable[[tuple[int, ...]], nn.Module]:
    """OSS-Net as the bundle builds it: the encoder sees half the image's resolution."""
    return lambda size: OSSNet(variant, MODALITIES, REGIONS, grid_size=[side // 2 for side in size])


def pyramid(**keys: Any) -> Callable[[tuple[int, ...]], nn.Module]:
    """Pyramid OSS-Net with its defaults, some changed."""
    settings = PyramidSettings(**{name: keys.pop(name) for name in list(keys) if name in _SETTINGS})
    return lambda _: PyramidOSSNet(MODALITIES, REGIONS, settings=settings, **keys)


def residual_unet(_: tuple[int, ...]) -> nn.Module:
    """MONAI's 3D UNet with residual units."""
    return UNet(3, MODALITIES, REGIONS, channels=(16, 32, 64, 128, 256), strides=(2, 2, 2, 2), num_res_units=2)


def segresnet(_: tuple[int, ...]) -> nn.Module:
    """MONAI's SegResNet with 8 filters."""
    return SegResNet(in_channels=MODALITIES, out_channels=REGIONS, init_filters=8)


PYRAMID_SAMPLING = {"uncertain_share": 0.25, "border_balance": 0.5, "dice_weight": 1.0}

METHODS: dict[str, Recipe] = {
    "O-Net": Recipe(ossnet("onet"), 1e-3, 4096),
    "OSS-Net C": Recipe(ossnet("c"), 1e-3, 4096),
    "Pyramid OSS-Net": Recipe(pyramid(), 2e-3, 4096, PYRAMID_SAMPLING),
    "Pyramid OSS-Net, downsampling 4": Recipe(
        pyramid(downsampling=4, depths=(2, 2, 2, 2)), 2e-3, 4096, PYRAMID_SAMPLING
    ),
    "residual UNet": Recipe(residual_unet, 5e-3),
    "SegResNet": Recipe(segresnet, 2e-3),
}

# A CPU takes its slow path through small convolutions of a single image: two a step are fairer to these networks.
BATCHED: dict[str, Recipe] = {
    f"{name}, 2 images a step": replace(METHODS[name], batch=2) for name in ("residual UNet", "SegResNet")
}


def prepare_item(image: Tensor, regions: Tensor) -> dict[str, Tensor]:
    """What every method trains on; the border map is made once, as the bundle's cache does."""
    # A copy: the cohort's file is read page by page when it is touched, which would count as memory of the training.
    return {"image": image.clone(), "label": regions.clone(), "border": BorderMap()(regions)}


def augmentation(seed: int) -> Compose:
    """The same for all: flips, and brightness, contrast and noise of each modality."""
    everything = ["image", "label", "border"]
    return Compose(
        [
            RandFlipd(everything, prob=0.5, spatial_axis=0),
            RandScaleIntensityd("image", factors=0.2, prob=0.7, channel_wise=True),
            RandShiftIntensityd("image", offsets=0.3, prob=0.7, channel_wise=True),
            RandGaussianNoised("image", std=0.1, prob=0.3),
        ]
    ).set_random_state(seed)

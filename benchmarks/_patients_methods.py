"""What is trained on real patients: networks and recipes, and the changes that are tried one at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from _patients_network import TrialPyramidOSSNet
from monai.losses import DiceLoss
from monai.networks.nets import DynUNet, SegResNet, UNet
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    Randomizable,
    RandScaleIntensityd,
    RandShiftIntensityd,
    RandSimulateLowResolutiond,
    Transform,
    generate_spatial_bounding_box,
)
from torch import Tensor, nn

from custom_nets.inferers import OccupancyInferer, SearchSettings
from custom_nets.losses import OccupancyLoss
from custom_nets.networks import OSSNet, PyramidOSSNet, PyramidSettings
from custom_nets.transforms import BorderMap, RandGaussianNoised, SamplePointsd

Item = dict[str, Tensor]


@dataclass(frozen=True)
class Recipe:
    """How a method is built and trained.

    Attributes:
        network: makes the network for so many channels, regions and the largest size of the images.
        keys: further arguments of the network.
        learning_rate: of AdamW.
        points: of all images of a step together; 0 for a convolutional network.
        batch: images a step.
        normalisation: a name of `_patients_data.NORMALISATIONS`.
        augmentation: a name of `AUGMENTATIONS`.
        sampling: of `SamplePointsd`.
        border_radius: of the border map, in voxels.
        transplants: how often an image is given the lesion of another of its batch.
        weighted: weigh each point by the inverse of its density, so that the loss is that of all voxels. Without
            uncertain points, whose density nobody knows.
        lesion_points: take half of the points near borders from the inside of the regions.
        auxiliary_weight: of the auxiliary segmentation.
        average: decay of the exponential moving average of the weights that is scored; 0: the weights themselves.
        warm_up: share of the budget over which the learning rate rises.
        mirror: score the mean of the answers for the image and its mirror image along the first axis.
    """

    network: Callable[..., nn.Module]
    learning_rate: float
    points: int = 0
    batch: int = 1
    normalisation: str = "nonzero"
    augmentation: str = "light"
    sampling: dict[str, Any] = field(default_factory=lambda: {"border_balance": 0.5, "uncertain_share": 0.25})
    border_radius: int = 6
    weighted: bool = False
    lesion_points: bool = False
    transplants: float = 0.0
    keys: dict[str, Any] = field(default_factory=dict)
    auxiliary_weight: float = 0.1
    average: float = 0.0
    warm_up: float = 0.0
    mirror: bool = False


class DenseMethod:
    """A convolutional network: images padded to multiples of 16 in, every voxel out; Dice + BCE."""

    def __init__(self, network: nn.Module, recipe: Recipe, seed: int, dense: bool) -> None:
        self.network = network
        self.dice = DiceLoss(sigmoid=True, batch=True)

    def prepare(self, item: Item) -> Item:
        return item

    def loss(self, items: Sequence[Item]) -> Tensor:
        logits = self.network(stack_padded([item["image"] for item in items], 16))
        if logits.ndim == 6:  # deep supervision: the first head is the output
            logits = logits[:, 0]
        target = stack_padded([item["label"] for item in items], 16).to(logits.dtype)
        return self.dice(logits, target) + nn.functional.binary_cross_entropy_with_logits(logits, target)

    def predict(self, network: nn.Module, image: Tensor) -> Tensor:
        """Probabilities `[R, H, W, D]`."""
        h, w, d = image.shape[1:]
        return network(stack_padded([image], 16))[0, :, :h, :w, :d].sigmoid()


class PointMethod:
    """An occupancy network: images and some points of each in, their answers out."""

    def __init__(self, network: nn.Module, recipe: Recipe, seed: int, dense: bool) -> None:
        self.network = network
        self.sampler = SamplePointsd(num_points=recipe.points // recipe.batch, **recipe.sampling)
        self.sampler.set_random_state(seed)
        self.border_map = BorderMap(recipe.border_radius)
        self.lesion_points, self.weighted = recipe.lesion_points, recipe.weighted
        self.transplants = recipe.transplants
        self.random = np.random.RandomState(seed)
        self.inferer = OccupancyInferer(SearchSettings("dense" if dense else "surface", coarse_step=2))
        self.criterion = OccupancyLoss(recipe.auxiliary_weight, dice_weight=1.0)

    def prepare(self, item: Item) -> Item:
        border = self.border_map(item["label"]).to(item["label"].device)
        if self.lesion_points:
            border = torch.cat([border, item["label"].amax(dim=0, keepdim=True).bool()])
        return {**item, "border": border}

    def loss(self, items: Sequence[Item]) -> Tensor:
        items = transplant(items, self.random, self.transplants)
        samples = [self.sampler(item) for item in items]
        points, labels = (torch.stack([sample[key] for sample in samples]) for key in ("points", "point_labels"))
        sampler = self.sampler.sampler
        if isinstance(self.network, TrialPyramidOSSNet):
            self.network.sizes = [item["image"].shape[1:] for item in items]
        outputs = self.network(
            stack_padded([item["image"] for item in items]),
            points,
            candidates=sampler.num_candidates,
            uncertain=sampler.num_uncertain,
        )
        dense = stack_padded([item["label"] for item in items])
        if self.weighted:
            weights = torch.stack([self.weights(*pair) for pair in zip(items, points, strict=True)])[..., None]
            loss = weighted_loss(outputs[0], labels, weights)
            loss = loss + self.criterion.auxiliary_weight * auxiliary_loss(outputs[1], dense)
        else:
            loss = self.criterion(outputs, (labels, dense))
        if getattr(self.network, "heads", None) is None:
            return loss
        levels = zip(self.network.level_logits, self.network.level_targets(dense), strict=True)
        # Each level counts half of the finer one, as in nnU-Net.
        losses = [self._level_loss(*level) * 0.5**number for number, level in enumerate(levels)]
        return loss + torch.stack(losses).sum() / 2

    def weights(self, item: Item, points: Tensor) -> Tensor:
        """Uniform density over the density with which the sampler draws, at points `[N, 3]`."""
        sampler = self.sampler.sampler
        masks = [mask for mask in item["border"] if mask.any()]
        h, w, d = points.unbind(-1)
        density, rest = torch.zeros(h.shape, device=points.device), 1.0
        for mask in masks:
            # Where a mask has fewer voxels than are wanted, all are taken, and the rest is uniform.
            share = min(sampler.border_balance / len(masks), int(mask.sum()) / sampler.num_points)
            density += share * mask.numel() / mask.sum() * mask[h, w, d]
            rest -= share
        return 1 / (density + rest)

    def _level_loss(self, logits: Tensor, shares: Tensor) -> Tensor:
        cross_entropy = nn.functional.binary_cross_entropy_with_logits(logits, shares)
        return cross_entropy + self.criterion.dice_loss(logits, shares)

    def predict(self, network: nn.Module, image: Tensor) -> Tensor:
        """Probabilities `[R, H, W, D]`."""
        if isinstance(network, TrialPyramidOSSNet):
            network.sizes = None
        return self.inferer(image[None], network)[0]


def weighted_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy and soft Dice over points `[B, N, R]` that count as `weights` `[B, N, 1]`, as `OccupancyLoss`."""
    cross_entropy = nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    probability = logits.sigmoid()
    common = (weights * probability * labels).sum(dim=(0, 1))
    sizes = (weights * (probability + labels)).sum(dim=(0, 1))
    return (weights * cross_entropy).mean() + (1 - (2 * common + 1e-5) / (sizes + 1e-5)).mean()


def auxiliary_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Of the auxiliary segmentation, as in `OccupancyLoss`."""
    pooled = nn.functional.adaptive_max_pool3d(labels.float(), logits.shape[2:])
    return nn.functional.binary_cross_entropy_with_logits(logits, pooled)


def stack_padded(tensors: Sequence[Tensor], multiple: int = 1) -> Tensor:
    """Stacks `[C, H, W, D]` to a batch; the far ends are padded to the largest, and to a multiple, with the minimum."""
    size = [-(-max(t.shape[axis] for t in tensors) // multiple) * multiple for axis in (1, 2, 3)]
    padded = []
    for tensor in tensors:
        missing = [n for axis in (3, 2, 1) for n in (0, size[axis - 1] - tensor.shape[axis])]
        padded.append(nn.functional.pad(tensor, missing, value=float(tensor.min())))
    return torch.stack(padded)


def pyramid(channels: int, regions: int, _: Sequence[int], **keys: Any) -> nn.Module:
    """Pyramid OSS-Net with its defaults, some changed."""
    return PyramidOSSNet(channels, regions, **with_settings(keys))


def trial(channels: int, regions: int, _: Sequence[int], **keys: Any) -> nn.Module:
    """Pyramid OSS-Net with options on trial."""
    return TrialPyramidOSSNet(channels, regions, **with_settings(keys))


def with_settings(keys: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a network, those of its `PyramidSettings` among them."""
    names = {each.name for each in fields(PyramidSettings)}
    settings = PyramidSettings(**{key: value for key, value in keys.items() if key in names})
    return {"settings": settings, **{key: value for key, value in keys.items() if key not in names}}


def ossnet(channels: int, regions: int, size: Sequence[int], variant: str = "c") -> nn.Module:
    """OSS-Net as the bundle builds it: the encoder sees half the image's resolution."""
    return OSSNet(variant, channels, regions, grid_size=[-(-side // 32) * 16 for side in size])


def residual_unet(channels: int, regions: int, _: Sequence[int]) -> nn.Module:
    """MONAI's 3D UNet with residual units."""
    return UNet(3, channels, regions, channels=(16, 32, 64, 128, 256), strides=(2, 2, 2, 2), num_res_units=2)


def segresnet(channels: int, regions: int, _: Sequence[int]) -> nn.Module:
    """MONAI's SegResNet with 8 filters."""
    return SegResNet(in_channels=channels, out_channels=regions, init_filters=8)


def dynunet(channels: int, regions: int, _: Sequence[int]) -> nn.Module:
    """MONAI's DynUNet with 32 filters, every stride 2."""
    kernels, strides = [[3] * 3] * 4, [[1] * 3, [2] * 3, [2] * 3, [2] * 3]
    return DynUNet(3, channels, regions, kernels, strides, strides[1:], norm_name="instance", res_block=False)


class RandIntensity(Randomizable, Transform):
    """Changes each channel on its own: its curve (gamma), and its brightness from place to place (bias field).

    Args:
        gamma: exponents lie in exp(-gamma)..exp(gamma); the mean stays.
        bias: deviation of the logarithm of the field.
        prob: of each change.
    """

    def __init__(self, gamma: float = 0.4, bias: float = 0.25, prob: float = 0.6) -> None:
        self.gamma, self.bias, self.prob = gamma, bias, prob

    def __call__(self, item: Item) -> Item:
        image = torch.as_tensor(item["image"])
        channels = []
        for channel in image:
            low = channel.min()
            value = channel - low
            if self.R.rand() < self.prob:
                mean = value.mean().clamp(min=1e-6)
                value = mean * (value / mean) ** float(np.exp(self.R.uniform(-self.gamma, self.gamma)))
            if self.R.rand() < self.prob:
                field = torch.from_numpy(self.R.normal(0, self.bias, (1, 1, 4, 4, 3))).to(value)
                value = value * nn.functional.interpolate(field, value.shape, mode="trilinear")[0, 0].exp()
            channels.append(value + low)
        return {**item, "image": torch.stack(channels)}


class RandLesionContrast(Randomizable, Transform):
    """Makes what is labelled fainter or stronger against the brain, each channel on its own.

    Scanners differ most in how bright a lesion is: its FLAIR signal is 1.2 to 2.3 times the median of the head.
    Images are to be normalised by that median: brain is 0.

    Args:
        factor: the contrast is multiplied by something between exp(-factor) and exp(factor / 2).
        prob: of a change.
    """

    def __init__(self, factor: float = 1.0, prob: float = 0.7) -> None:
        self.factor, self.prob = factor, prob

    def __call__(self, item: Item) -> Item:
        label = torch.as_tensor(item["label"])
        if self.R.rand() >= self.prob or not label.any():
            return item
        image = torch.as_tensor(item["image"]).clone()
        change = np.exp(self.R.uniform(-self.factor, self.factor / 2, (len(image), 1, 1, 1))) - 1
        box = (slice(None), *lesion_box(label))
        image[box] *= 1 + torch.from_numpy(change).to(image) * soft(label[box])
        return {**item, "image": image}


def lesion_box(label: Tensor, margin: int = 3) -> tuple[slice, ...]:
    """The box of all that is labelled in `[R, H, W, D]`, with a margin: to change it there alone is cheap."""
    low, high = generate_spatial_bounding_box(label, margin=margin, allow_smaller=False)
    return tuple(slice(max(a, 0), b) for a, b in zip(low, high, strict=True))


def soft(label: Tensor) -> Tensor:
    """Weights `[1, h, w, d]` of labelled tissue `[R, h, w, d]`: 1 well inside, falling off over two voxels in plane."""
    mask = label.amax(dim=0, keepdim=True).float()
    return nn.functional.avg_pool3d(mask, (5, 5, 1), 1, (2, 2, 0)) * mask.clamp(0.5)


def transplant(items: Sequence[Item], random: np.random.RandomState, prob: float) -> list[Item]:
    """Gives some images of a batch the lesion of the one before it, at the same place of the head.

    Images have one size in plane and are normalised by the median: brain is 0, air about -1. Source of the idea:
    CarveMix (Zhang et al., MICCAI 2021).
    """
    mixed = []
    for receiver, donor in zip(items, [items[-1], *items[:-1]], strict=True):
        if receiver is donor or random.rand() >= prob or not donor["label"].any():
            mixed.append(receiver)
            continue
        item = {key: value.clone() for key, value in receiver.items()}
        depth, given = item["image"].shape[-1], donor["image"].shape[-1]
        # Slices of the same height in the head.
        slices = ((torch.arange(depth) + 0.5) * given / depth).long()
        label = donor["label"][..., slices]
        if label.any():
            rows, columns, own = lesion_box(label)
            box = (slice(None), rows, columns, own)
            head = item["image"][box].amax(dim=0, keepdim=True) > -0.6
            weight = soft(label[box]) * head
            item["image"][box] += weight * (donor["image"][:, rows, columns, slices[own]] - item["image"][box])
            inside = weight > 0.3
            item["label"][box] = torch.where(inside, label[box], item["label"][box])
            item["border"][box] |= nn.functional.max_pool3d(inside.float(), 7, 1, 3) > 0
        mixed.append(item)
    return mixed


def _augmentation(seed: int, strong: bool = False, intensity: bool = False, contrast: bool = False) -> Compose:
    everything = ["image", "label", "border"]
    steps: list[Any] = [RandFlipd(everything, prob=0.5, spatial_axis=0, allow_missing_keys=True)]
    if strong:
        steps += [
            RandAffined(
                everything,
                prob=0.8,
                rotate_range=(0.1, 0.1, 0.35),
                scale_range=(0.2, 0.2, 0.1),
                translate_range=(8, 8, 2),
                mode=["bilinear", "nearest", "nearest"],
                padding_mode="border",
                allow_missing_keys=True,
            ),
            RandAdjustContrastd("image", prob=0.5, gamma=(0.6, 1.7)),
            RandSimulateLowResolutiond("image", prob=0.2, zoom_range=(0.5, 1.0)),
        ]
    if contrast:
        steps.append(RandLesionContrast())
    if intensity:
        steps.append(RandIntensity())
    steps += [
        RandScaleIntensityd("image", factors=0.2, prob=0.7, channel_wise=True),
        RandShiftIntensityd("image", offsets=0.3, prob=0.7, channel_wise=True),
        RandGaussianNoised("image", std=0.1, prob=0.3),
    ]
    return Compose(steps).set_random_state(seed)


AUGMENTATIONS: dict[str, Callable[[int], Compose]] = {
    "light": _augmentation,
    "strong": partial(_augmentation, strong=True),
    "intensity": partial(_augmentation, intensity=True),
    "contrast": partial(_augmentation, intensity=True, contrast=True),
}

METHODS: dict[str, Recipe] = {
    "pyramid": Recipe(pyramid, 2e-3, 4096),
    "ossnet-c": Recipe(ossnet, 1e-3, 4096, sampling={"border_balance": 0.5}),
    "residual-unet": Recipe(residual_unet, 5e-3, batch=2),
    "segresnet": Recipe(segresnet, 2e-3, batch=2),
    "dynunet": Recipe(dynunet, 2e-3, batch=2),
}
"""The methods as the project trains them today."""

CHANGES: dict[str, dict[str, Any]] = {
    "head": {"normalisation": "head"},
    "median": {"normalisation": "median"},
    "strong": {"augmentation": "strong"},
    "intensity": {"augmentation": "intensity"},
    "contrast": {"augmentation": "contrast"},
    "transplant": {"transplants": 0.5},
    "bend": {"network": trial, "keys": {"bend": (0.4, 0.25, 0.1, 0.03)}},
    "bend2": {"network": trial, "keys": {"bend": (0.8, 0.4, 0.2, 0.06)}},
    "deep": {"network": trial, "keys": {"supervised": True}},
    "correct": {"network": trial, "keys": {"supervised": True, "corrected": 0}},
    "attention": {"network": trial, "keys": {"attention": True}},
    "unlocated": {"network": trial, "keys": {"located": False}},
    "batch2": {"batch": 2},
    "batch4": {"batch": 4},
    "average": {"average": 0.99},
    "mirror": {"mirror": True},
    "warm": {"warm_up": 0.1},
    "points2k": {"points": 2048},
    "lesion": {"lesion_points": True},
    "weighted": {"weighted": True, "sampling": {"border_balance": 0.5, "uncertain_share": 0.0}},
    "plain": {"sampling": {"border_balance": 0.5, "uncertain_share": 0.0}},
    "aux1": {"auxiliary_weight": 1.0},
    "small": {"keys": {"downsampling": (4, 4, 2), "depths": (2, 2, 2, 2)}, "batch": 4, "points": 2048},
    "grid16": {
        "network": trial,
        "keys": {"grid": (32, 32, 16), "depths": (2, 2, 2, 2)},
        "batch": 4,
        "points": 2048,
    },
    "grid32": {
        "network": trial,
        "keys": {"grid": (32, 32, 32), "depths": (2, 2, 2, 2)},
        "batch": 4,
        "points": 2048,
    },
    "hippo": {"network": trial, "keys": {"grid": (24, 32, 24), "depths": (2, 2, 2, 2)}, "batch": 4},
    "hippo1": {"network": trial, "keys": {"grid": (40, 56, 40)}, "batch": 2},
    "flat": {"keys": {"downsampling": (2, 2, 1)}},
    "flat4": {"keys": {"downsampling": (4, 4, 1), "depths": (2, 2, 2, 2)}},
    "levels5": {"keys": {"channels": (16, 32, 64, 128, 192)}},
    "topdown": {"keys": {"top_down": True}},
}
"""What a name after a `+` changes in a recipe; arguments of the network (`keys`) add up."""


def recipe_of(name: str) -> Recipe:
    """The recipe of a method and its changes, such as `pyramid+median+bend`."""
    method, *changes = name.split("+")
    recipe = METHODS[method]
    for change in changes:
        changed = dict(CHANGES[change])
        recipe = replace(recipe, keys={**recipe.keys, **changed.pop("keys", {})}, **changed)
    return recipe

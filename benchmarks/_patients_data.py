"""Real labelled patients in the layout of the Medical Segmentation Decathlon: reading, normalisation, folds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.data.utils import affine_to_spacing
from monai.transforms import LoadImage, NormalizeIntensity
from scipy import ndimage
from torch import Tensor

from custom_nets.io.files import atomic_file


@dataclass(frozen=True)
class Patient:
    """One labelled patient.

    Attributes:
        name: of the image's file.
        image: normalised, on the training grid, float32 `[C, h, w, d]`.
        label: one channel a label, on the training grid, uint8 `[R, h, w, d]`.
        native_label: likewise on the grid of the file, uint8 `[R, H, W, D]`.
        spacing: of that grid in mm, as its affine says.
    """

    name: str
    image: Tensor
    label: Tensor
    native_label: Tensor
    spacing: tuple[float, ...]


def labels_of(folder: Path) -> list[str]:
    """Names of the labels in the order of their numbers, without the background."""
    labels = json.loads((folder / "dataset.json").read_text())["labels"]
    return [labels[number] for number in sorted(labels, key=int) if int(number) > 0]


def patient_name(entry: dict[str, str]) -> str:
    """Name of the image's file."""
    return Path(entry["image"]).name.removesuffix(".gz").removesuffix(".nii")


def load_patients(folder: Path, cache: Path, normalisation: str, in_plane: int | None) -> list[Patient]:
    """Reads all labelled patients of a data set; what was read before comes from the cache.

    Args:
        folder: with `dataset.json`, whose `training` lists images and labels.
        cache: folder of what is prepared.
        normalisation: a name of `NORMALISATIONS`.
        in_plane: voxels along the first two axes, to which the image is reduced by averaging; None: as it is.
    """
    entries = json.loads((folder / "dataset.json").read_text())["training"]
    # Another text of this file may prepare another image.
    recipe = [str(folder.resolve()), entries, normalisation, in_plane, Path(__file__).read_text()]
    path = cache / f"{folder.name}_{hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]}.pt"
    if path.is_file():
        # Mapped copies would count as memory of the training.
        return [Patient(*fields) for fields in torch.load(path, weights_only=True)]
    numbers = range(1, len(labels_of(folder)) + 1)
    patients = [_load(folder, entry, numbers, NORMALISATIONS[normalisation], in_plane) for entry in entries]
    patients.sort(key=lambda patient: patient.name)
    cache.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        torch.save([(p.name, p.image, p.label, p.native_label, p.spacing) for p in patients], file)
    return patients


def _load(
    folder: Path, entry: dict, numbers: Sequence[int], normalise: Callable[[Tensor], Tensor], in_plane: int | None
) -> Patient:
    read = LoadImage(ensure_channel_first=True)
    image, label = read(folder / entry["image"]), read(folder / entry["label"])
    spacing = tuple(affine_to_spacing(label.affine).tolist())
    image, label = (tensor.as_subclass(Tensor).float() for tensor in (image, label))
    native = torch.cat([label == number for number in numbers]).byte()
    image, regions = normalise(image), native
    if in_plane is not None:
        size = (in_plane, in_plane, image.shape[-1])
        image = torch.nn.functional.adaptive_avg_pool3d(image, size)
        regions = (torch.nn.functional.adaptive_avg_pool3d(native.float(), size) >= 0.5).byte()
    return Patient(patient_name(entry), image.contiguous(), regions.contiguous(), native, spacing)


def _nonzero_score(image: Tensor) -> Tensor:
    """Mean 0 and deviation 1 of the voxels that are not 0, as the bundles do."""
    return NormalizeIntensity(nonzero=True, channel_wise=True)(image.clone())  # it works in place


def head_mask(image: Tensor) -> np.ndarray:
    """Voxels of the head `[H, W, D]`: what is brighter than the noise of the air, its holes filled slice by slice."""
    tops = np.maximum(np.percentile(image.numpy(), 99, axis=(1, 2, 3), keepdims=True), 1e-6)
    signal = ndimage.gaussian_filter((image.numpy() / tops).mean(axis=0), (2, 2, 0))
    # Otsu's threshold parts fat from brain about as often as head from air; half of it lies between brain and air.
    bright = signal > _otsu(signal) / 2
    slices = [ndimage.binary_fill_holes(ndimage.binary_opening(s, iterations=3)) for s in np.moveaxis(bright, -1, 0)]
    return np.stack(slices, axis=-1)


def _otsu(values: np.ndarray) -> float:
    counts, edges = np.histogram(values, 256)
    centres = (edges[1:] + edges[:-1]) / 2
    below, moment = counts.cumsum(), (counts * centres).cumsum()
    between = (moment[-1] * below / below[-1] - moment) ** 2 / np.maximum(below * (below[-1] - below), 1)
    return float(centres[between.argmax()])


def _head_score(image: Tensor) -> Tensor:
    """Mean 0 and deviation 1 of the head: the share of air does not count."""
    inside = torch.from_numpy(head_mask(image))
    return torch.stack([(channel - channel[inside].mean()) / channel[inside].std() for channel in image])


def _median_ratio(image: Tensor) -> Tensor:
    """Each channel over the median of the head, less 1: that is brain, which neither fat nor air moves."""
    inside = torch.from_numpy(head_mask(image))
    return torch.stack([channel / channel[inside].median().clamp(min=1e-6) - 1 for channel in image]).clamp(max=5)


NORMALISATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "nonzero": _nonzero_score,
    "head": _head_score,
    "median": _median_ratio,
}


def split_fold(count: int, folds: int, fold: int) -> tuple[list[int], list[int]]:
    """Indices of the training and the held-out patients of one fold; all folds come of one seeded order."""
    order = np.random.RandomState(0).permutation(count)
    held_out = sorted(order[fold::folds].tolist())
    return sorted(set(range(count)) - set(held_out)), held_out

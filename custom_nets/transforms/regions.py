"""Label maps to regions and back, by the record of the data set, which alone knows what each number means."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_tensor

from custom_nets.datasets.record import Labels, Region, get_record
from custom_nets.errors import InputError
from custom_nets.transforms.slabs import split_slabs


def check_names(names: Sequence[str], regions: Sequence[str]) -> None:
    """Checks that every name is that of a region.

    Raises:
        InputError: when one is not.
    """
    unknown = [name for name in names if name not in regions]
    if unknown:
        msg = f"region '{unknown[0]}' is unknown; expected any of {', '.join(regions)}"
        raise InputError(msg)


class LabelsToRegions(Transform):
    """Turns a label map `[1, H, W, D]` into binary regions `[R, H, W, D]` (uint8).

    Args:
        dataset: name or file of the record whose numbers the map has, see `get_record`.
        regions: names of the regions, in the order of the channels; None takes all, outermost first.
    """

    def __init__(self, dataset: str, regions: Sequence[str] | None = None) -> None:
        self.dataset = dataset
        self.regions = None if regions is None else tuple(regions)
        _labels(dataset).select(self.regions if _has(dataset, self.regions) else None)

    def __call__(
        self, label: NdarrayOrTensor, dataset: str | None = None, source: str = "the label map"
    ) -> torch.Tensor:
        """Converts one label map.

        Args:
            label: label numbers `[1, H, W, D]`; floats with whole values are accepted.
            dataset: record of this map, in place of the constructor's.
            source: how an error names the label map (case or file).

        Raises:
            InputError: when the map holds a number that the record does not know, or the record has no such region.
        """
        name = self.dataset if dataset is None else dataset
        labels = _labels(name)
        kept = labels.select(self.regions)
        data = convert_to_tensor(label, track_meta=True)
        values = torch.as_tensor(data).as_subclass(torch.Tensor)
        stacked = torch.zeros(len(kept), *values.shape[1:], dtype=torch.uint8, device=values.device)
        found = 0
        for numbers, channels in zip(split_slabs(values), split_slabs(stacked), strict=True):
            for number in labels.known:
                mask = numbers[0] == number
                found += int(torch.count_nonzero(mask))
                for channel, region in zip(channels, kept, strict=True):
                    if number in region.numbers:
                        channel.masked_fill_(mask, 1)
        if found != values.numel():
            labels.require_known(torch.unique(values).tolist(), source, name)
        return MetaTensor(stacked, meta=data.meta) if isinstance(data, MetaTensor) else stacked


class NestRegions(Transform):
    """Confines each inner region to its outer one: no probability `[R, H, W, D]` exceeds that of an outer region.

    Type, device and metadata stay.

    Args:
        regions: one a channel; regions that do not lie within each other are left alone. None: each channel lies within
            the one before it.
        in_place: writes into the given tensor and not into a copy (0.8 GiB for two regions of 512x512x800, float16).
    """

    def __init__(self, regions: Sequence[Region] | None = None, in_place: bool = False) -> None:
        self.regions = regions
        self.in_place = in_place

    def __call__(self, regions: NdarrayOrTensor) -> torch.Tensor:
        data = convert_to_tensor(regions, track_meta=True)
        nested = data if self.in_place else data.clone()
        channels = nested.as_subclass(torch.Tensor)
        chain = [(i, i + 1) for i in range(len(channels) - 1)]
        for outer, inner in chain if self.regions is None else nested_pairs(self.regions):
            torch.minimum(channels[outer], channels[inner], out=channels[inner])
        return nested


class RegionsToLabels(Transform):
    """Turns regions `[R, H, W, D]` (probabilities or binary) into one label map `[1, H, W, D]` (uint8).

    A region that lies within another is written over it, and only inside it. Of regions that share no number, the one
    of the highest probability has the voxel (the first one of equals). A number that stands for several regions at once
    is written where all of them are: label maps of the record come back as they were.

    Args:
        dataset: name or file of the record whose numbers are written.
        regions: names of the channels; None takes the record's first ones.
        threshold: a region holds the voxels strictly above it.
    """

    def __init__(self, dataset: str, regions: Sequence[str] | None = None, threshold: float = 0.5) -> None:
        self.dataset = dataset
        self.regions = None if regions is None else tuple(regions)
        self.threshold = threshold
        _labels(dataset)

    def __call__(self, regions: NdarrayOrTensor, dataset: str | None = None) -> torch.Tensor:
        """Converts one case.

        Raises:
            InputError: when the record lacks a region.
        """
        data = convert_to_tensor(regions, track_meta=True)
        chosen = _labels(self.dataset if dataset is None else dataset).select(self.regions)[: data.shape[0]]
        pairs, rivals, joint = nested_pairs(chosen), _rivals(chosen), _joint_numbers(chosen)
        labels = torch.zeros(1, *data.shape[1:], dtype=torch.uint8, device=data.device)
        for channels, (numbers,) in zip(split_slabs(data), split_slabs(labels), strict=True):
            inside = [channel > self.threshold for channel in channels]
            for i, j in rivals:
                wins = channels[i] >= channels[j]
                both = inside[i] & inside[j]
                inside[j] &= ~(both & wins)
                inside[i] &= ~(both & ~wins)
                for outer, inner in pairs:
                    inside[inner] &= inside[outer]
            for outer, inner in pairs if not rivals else ():
                inside[inner] &= inside[outer]
            for index in sorted(range(len(chosen)), key=lambda index: -len(chosen[index].numbers)):
                numbers.masked_fill_(inside[index], chosen[index].written)
            for number, members in joint:
                numbers.masked_fill_(torch.stack([inside[index] for index in members]).all(dim=0), number)
        return MetaTensor(labels, meta=data.meta) if isinstance(data, MetaTensor) else labels


def nested_pairs(regions: Sequence[Region]) -> list[tuple[int, int]]:
    """Returns `(outer, inner)` channels of regions that lie within each other, outermost first."""
    sets = [set(region.numbers) for region in regions]
    pairs = [(i, j) for i in range(len(sets)) for j in range(len(sets)) if sets[j] < sets[i]]
    return sorted(pairs, key=lambda pair: (-len(sets[pair[0]]), -len(sets[pair[1]])))


def relations(dataset: str | None, regions: Sequence[str]) -> list[tuple[list[int], list[int], list[int]]]:
    """Returns of each region the channels that lie around it, within it, and that share no voxel with it.

    Args:
        dataset: record that tells it, see `get_record`; None: each region lies within the one before it.
        regions: names of the channels.

    Raises:
        InputError: when the record lacks a region.
    """
    count = range(len(regions))
    if dataset is None:
        return [(list(count[:index]), list(count[index + 1 :]), []) for index in count]
    chosen = _labels(dataset).select(tuple(regions))
    pairs, rivals = nested_pairs(chosen), _rivals(chosen)
    return [
        (
            [outer for outer, inner in pairs if inner == index],
            [inner for outer, inner in pairs if outer == index],
            [other for pair in rivals if index in pair for other in pair if other != index],
        )
        for index in count
    ]


def _rivals(regions: Sequence[Region]) -> list[tuple[int, int]]:
    """Returns the pairs of channels that share no number, so that a voxel is in one of them at most."""
    sets = [set(region.numbers) for region in regions]
    pairs = [(i, j) for i, j in combinations(range(len(sets)), 2) if not sets[i] & sets[j]]
    return sorted(pairs, key=lambda pair: -len(sets[pair[0]] | sets[pair[1]]))


def _joint_numbers(regions: Sequence[Region]) -> list[tuple[int, list[int]]]:
    """Returns the numbers that stand for several regions of which none lies within another, with their channels."""
    sets = [set(region.numbers) for region in regions]
    joint = []
    for number in sorted(set().union(*sets)):
        members = [index for index, numbers in enumerate(sets) if number in numbers]
        crossing = [(i, j) for i, j in combinations(members, 2) if not (sets[i] <= sets[j] or sets[j] <= sets[i])]
        if crossing:
            joint.append((number, members))
    return sorted(joint, key=lambda entry: len(entry[1]))


class _DatasetOfItem(MapTransform):
    """A map transform that reads the record from the data item where the data list wrote one."""

    def __init__(
        self,
        keys: KeysCollection,
        dataset: str,
        regions: Sequence[str] | None,
        dataset_key: str,
        allow_missing_keys: bool,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.dataset = dataset
        self.regions = None if regions is None else tuple(regions)
        self.dataset_key = dataset_key

    def dataset_of(self, item: Mapping[Hashable, Any]) -> str:
        """Returns the item's own record where it has all regions, else the constructor's."""
        return dataset_of(item.get(self.dataset_key), self.dataset, self.regions)


class NestRegionsd(_DatasetOfItem):
    """Dictionary form of `NestRegions`.

    Args:
        keys: regions, one a channel.
        dataset: record that tells which regions lie within each other, see `get_record`; the item's own wins where it
            has these regions.
        regions: names of the channels; None: each lies within the one before it, whatever the record says.
        dataset_key: where the item names its record.
        allow_missing_keys: whether an item may lack a key.
        in_place: see `NestRegions`.

    Raises: InputError for probabilities that are not finite.
    """

    def __init__(
        self,
        keys: KeysCollection,
        dataset: str = "",
        regions: Sequence[str] | None = None,
        dataset_key: str = "dataset",
        allow_missing_keys: bool = False,
        in_place: bool = False,
    ) -> None:
        super().__init__(keys, dataset, regions, dataset_key, allow_missing_keys)
        self.in_place = in_place

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        regions = None if self.regions is None else _labels(self.dataset_of(item)).select(self.regions)
        nest = NestRegions(regions, self.in_place)
        for key in self.key_iterator(item):
            # NaN is above no threshold and would be written as healthy; the largest number shows it, at little memory.
            if not torch.isfinite(torch.as_tensor(item[key]).amax()):
                msg = (
                    f"case {item.get('case', 'without a name')}: what the network gives is not finite (NaN or Inf), "
                    "no result is written; give --amp false, or weights of another training"
                )
                raise InputError(msg)
            item[key] = nest(item[key])
        return item


class LabelsToRegionsd(_DatasetOfItem):
    """Dictionary form of `LabelsToRegions`.

    Args:
        keys: label maps.
        dataset: record of items that name none, see `get_record`.
        regions: names of the regions, in the order of the channels; None takes all.
        dataset_key: where the item names its record.
        allow_missing_keys: whether an item may lack a key.
    """

    def __init__(
        self,
        keys: KeysCollection,
        dataset: str,
        regions: Sequence[str] | None = None,
        dataset_key: str = "dataset",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, dataset, regions, dataset_key, allow_missing_keys)
        self.converter = LabelsToRegions(dataset, regions)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            meta = getattr(item[key], "meta", {})
            source = str(item.get("case") or meta.get("filename_or_obj") or f"item '{key}'")
            item[key] = self.converter(item[key], item.get(self.dataset_key), source)
        return item


class RegionsToLabelsd(_DatasetOfItem):
    """Dictionary form of `RegionsToLabels`.

    Args:
        keys: regions, one a channel.
        dataset: record whose numbers are written, see `get_record`; the item's own wins where it has these regions.
        regions: names of the channels.
        threshold: a region holds the voxels strictly above it.
        dataset_key: where the item names its record.
        allow_missing_keys: whether an item may lack a key.
    """

    def __init__(
        self,
        keys: KeysCollection,
        dataset: str,
        regions: Sequence[str] | None = None,
        threshold: float = 0.5,
        dataset_key: str = "dataset",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, dataset, regions, dataset_key, allow_missing_keys)
        self.converter = RegionsToLabels(dataset, regions, threshold)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.converter(item[key], self.dataset_of(item))
        return item


def dataset_of(own: Any, default: str, regions: Sequence[str] | None) -> str:
    """Returns the record that a data item names where it has the regions of a model, else another one.

    Args:
        own: what the item names, None for nothing.
        default: the other one.
        regions: names of the model's regions.
    """
    return str(own) if own and _has(str(own), regions) else default


def _labels(dataset: str) -> Labels:
    return get_record(dataset).require_labels()


def _has(dataset: str, regions: Sequence[str] | None) -> bool:
    labels = get_record(dataset).labels
    return labels is not None and set(regions or ()) <= set(labels.region_names)

"""Label numbers and nested regions: the one place that knows which number means what."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_tensor

from custom_nets.errors import InputError
from custom_nets.transforms.slabs import split_slabs


class Region(NamedTuple):
    """One nested region: the label numbers it holds, and the number written where no inner region overwrites it."""

    name: str
    members: tuple[int, ...]
    written: int


@dataclass(frozen=True)
class LabelScheme:
    """The label numbers of one dataset release.

    Args:
        name: key in `SCHEMES`.
        regions: nested regions, outermost first; the order of the channels.
        outside: numbers that belong to no region (background, the resection cavity of BraTS 2024).
    """

    name: str
    regions: tuple[Region, ...]
    outside: tuple[int, ...] = (0,)

    @property
    def region_names(self) -> tuple[str, ...]:
        return tuple(region.name for region in self.regions)

    @property
    def known(self) -> tuple[int, ...]:
        """Every number that a label file of this scheme may hold, ascending."""
        return tuple(sorted({*self.outside, *(n for region in self.regions for n in region.members)}))


def _brain(name: str, necrotic: int, oedema: int, enhancing: int, outside: tuple[int, ...] = (0,)) -> LabelScheme:
    regions = (
        Region("WT", (necrotic, oedema, enhancing), written=oedema),
        Region("TC", (necrotic, enhancing), written=necrotic),
        Region("ET", (enhancing,), written=enhancing),
    )
    return LabelScheme(name, regions, outside)


SCHEMES: dict[str, LabelScheme] = {
    scheme.name: scheme
    for scheme in (
        _brain("brats2018", necrotic=1, oedema=2, enhancing=4),  # 2018 to 2021
        _brain("brats2023", necrotic=1, oedema=2, enhancing=3),
        _brain("brats2024", necrotic=1, oedema=2, enhancing=3, outside=(0, 4)),  # 4: resection cavity
        _brain("msd_brain", necrotic=2, oedema=1, enhancing=3),  # Medical Segmentation Decathlon, Task01
        LabelScheme("lits", (Region("liver", (1, 2), written=1), Region("tumour", (2,), written=2))),
    )
}


def get_scheme(name: str) -> LabelScheme:
    """Returns the scheme called `name`.

    Raises:
        InputError: when there is no such scheme.
    """
    if name not in SCHEMES:
        msg = f"label scheme '{name}' is unknown; expected one of {', '.join(SCHEMES)}"
        raise InputError(msg)
    return SCHEMES[name]


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
    """Turns a label map `[1, H, W, D]` into nested binary regions `[R, H, W, D]` (uint8), outermost first.

    Args:
        scheme: name of the label scheme, see `SCHEMES`.
        num_regions: keep only the outermost ones (the published OSS-Net learns WT alone); None keeps all.
    """

    def __init__(self, scheme: str = "brats2018", num_regions: int | None = None) -> None:
        self.scheme = get_scheme(scheme)
        self.num_regions = num_regions

    def __call__(
        self, label: NdarrayOrTensor, scheme: str | None = None, source: str = "the label map"
    ) -> torch.Tensor:
        """Converts one label map.

        Args:
            label: label numbers `[1, H, W, D]`; floats with whole values are accepted.
            scheme: overrides the scheme of the constructor.
            source: how an error names the label map (case or file).

        Raises:
            InputError: when the map holds a number that the scheme does not know.
        """
        chosen = self.scheme if scheme is None else get_scheme(scheme)
        data = convert_to_tensor(label, track_meta=True)
        values = torch.as_tensor(data).as_subclass(torch.Tensor)
        kept = chosen.regions[: self.num_regions]
        stacked = torch.zeros(len(kept), *values.shape[1:], dtype=torch.uint8, device=values.device)
        found = 0
        for numbers, channels in zip(split_slabs(values), split_slabs(stacked), strict=True):
            for number in chosen.known:
                mask = numbers[0] == number
                found += int(torch.count_nonzero(mask))
                for channel, region in zip(channels, kept, strict=True):
                    if number in region.members:
                        channel.masked_fill_(mask, 1)
        if found != values.numel():
            unknown = [f"{n:g}" for n in torch.unique(values).tolist() if n not in chosen.known]
            known = ", ".join(str(n) for n in chosen.known)
            msg = (
                f"{source}: label numbers {', '.join(unknown)} are not in the scheme '{chosen.name}' (it has {known}); "
                f"choose the scheme of the release it comes from: {', '.join(SCHEMES)}"
            )
            raise InputError(msg)
        return MetaTensor(stacked, meta=data.meta) if isinstance(data, MetaTensor) else stacked


class NestRegions(Transform):
    """Confines each inner region to the outer ones: no probability `[R, H, W, D]` exceeds that of an outer region.

    Type, device and metadata stay.

    Args:
        in_place: writes into the given tensor and not into a copy (0.8 GiB for two regions of 512x512x800, float16).
    """

    def __init__(self, in_place: bool = False) -> None:
        self.in_place = in_place

    def __call__(self, regions: NdarrayOrTensor) -> torch.Tensor:
        data = convert_to_tensor(regions, track_meta=True)
        nested = data if self.in_place else data.clone()
        channels = nested.as_subclass(torch.Tensor)
        for outer, inner in itertools.pairwise(channels):
            torch.minimum(outer, inner, out=inner)
        return nested


class RegionsToLabels(Transform):
    """Turns regions `[R, H, W, D]` (probabilities or binary) into one label map `[1, H, W, D]` (uint8).

    Regions are nested (see `NestRegions`); inner regions then overwrite outer ones.

    Args:
        scheme: name of the label scheme whose numbers are written.
        threshold: a region holds the voxels strictly above it.
    """

    def __init__(self, scheme: str = "brats2018", threshold: float = 0.5) -> None:
        self.scheme = get_scheme(scheme)
        self.threshold = threshold

    def __call__(self, regions: NdarrayOrTensor, scheme: str | None = None) -> torch.Tensor:
        chosen = self.scheme if scheme is None else get_scheme(scheme)
        data = convert_to_tensor(regions, track_meta=True)
        labels = torch.zeros(1, *data.shape[1:], dtype=torch.uint8, device=data.device)
        for channels, (numbers,) in zip(split_slabs(data), split_slabs(labels), strict=True):
            inside = torch.ones_like(numbers, dtype=torch.bool)
            for channel, region in zip(channels, chosen.regions, strict=False):
                inside &= channel > self.threshold
                numbers.masked_fill_(inside, region.written)
        return MetaTensor(labels, meta=data.meta) if isinstance(data, MetaTensor) else labels


class _SchemeOfItem(MapTransform):
    """A map transform that reads the scheme from the data item where the datalist wrote one."""

    def __init__(self, keys: KeysCollection, scheme_key: str, allow_missing_keys: bool) -> None:
        super().__init__(keys, allow_missing_keys)
        self.scheme_key = scheme_key


class NestRegionsd(MapTransform):
    """Dictionary form of `NestRegions`."""

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False, in_place: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.nest = NestRegions(in_place)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.nest(item[key])
        return item


class LabelsToRegionsd(_SchemeOfItem):
    """Dictionary form of `LabelsToRegions`; the item's own scheme (`scheme_key`) wins over `scheme`."""

    def __init__(
        self,
        keys: KeysCollection,
        scheme: str = "brats2018",
        num_regions: int | None = None,
        scheme_key: str = "scheme",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, scheme_key, allow_missing_keys)
        self.converter = LabelsToRegions(scheme, num_regions)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            meta = getattr(item[key], "meta", {})
            source = str(item.get("case") or meta.get("filename_or_obj") or f"item '{key}'")
            item[key] = self.converter(item[key], item.get(self.scheme_key), source)
        return item


class RegionsToLabelsd(_SchemeOfItem):
    """Dictionary form of `RegionsToLabels`; the item's own scheme (`scheme_key`) wins over `scheme`."""

    def __init__(
        self,
        keys: KeysCollection,
        scheme: str = "brats2018",
        threshold: float = 0.5,
        scheme_key: str = "scheme",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, scheme_key, allow_missing_keys)
        self.converter = RegionsToLabels(scheme, threshold)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.converter(item[key], item.get(self.scheme_key))
        return item

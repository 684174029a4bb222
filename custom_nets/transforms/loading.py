"""Reading a case and checking it before anything is computed: errors name the case, the file and the remedy."""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.image_reader import ImageReader
from monai.transforms import MapTransform
from monai.utils import MetaKeys, ensure_tuple

from custom_nets.datasets.names import case_of_files
from custom_nets.datasets.record import get_record
from custom_nets.errors import InputError
from custom_nets.io.nifti import AFFINE_TOLERANCE, check_channel_order, where
from custom_nets.io.readers import CHANNELS_KEY, ORIENTATION_KEY, read_volume, reader_of
from custom_nets.transforms.voxel_checks import check_voxels, label_notes, warn_once

FILES_KEY = "case_files"
"""Entry of the meta data with the files of an image, of `LoadCased`: JSON, as lists do not survive collation."""

MODALITIES_KEY = "modalities"
"""Entry with the channels that `LoadCased` took of a file, with commas between them, where they are not the file's."""

WHOLE_NUMBER_TOLERANCE = 1e-3
"""A label voxel may be this far from a whole number (scaled headers)."""

_PART = 1 << 22


class LoadCased(MapTransform):
    """Reads images and label maps of a case, channels first.

    An image is a list of files (one a modality, stacked in their order) or one 4D file `(x, y, z, channels)`; it
    becomes `float32 [C, H, W, D]`. None in the list becomes a channel of zeros (`CheckCased` judges whether there may
    be any); grid and meta data are those of the other files. The folder of one DICOM series of CT (needs pydicom)
    becomes `float32 [1, H, W, D]` in Hounsfield units. A label map becomes `int16 [1, H, W, D]`, also where the file
    holds floats with whole values. A tensor `[C, H, W, D]` is in memory already.
    The item gains `case` where it has none, and the meta data `case` and `case_files` (see `files_of`).

    Args:
        keys: what to read.
        label_keys: those of them that are label maps.
        allow_missing_keys: whether an item may lack a key.
        modalities: channels of the image by name: of a single file whose item tells its channels (`channels`, separated
            by commas), these are taken, in this order; one that is not there becomes zeros. None takes all.
    """

    def __init__(
        self,
        keys: KeysCollection = ("image", "label"),
        label_keys: KeysCollection = ("label",),
        allow_missing_keys: bool = False,
        modalities: Sequence[str] | None = None,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.label_keys = ensure_tuple(label_keys)
        self.modalities = None if modalities is None else tuple(modalities)

    def __call__(self, data: Mapping[Hashable, Any], reader: ImageReader | None = None) -> dict[Hashable, Any]:
        """Reads one item.

        Args:
            data: file names by key.
            reader: replaces the readers of NIfTI and DICOM.

        Raises:
            InputError: when a file is absent, unreadable or cut short, the files of an image lie on different grids, a
                label map holds fractions, a folder is no single series of CT, or no file is named at all.
        """
        item = dict(data)
        for key in self.key_iterator(item):
            if isinstance(item[key], torch.Tensor):
                item[key] = _in_memory(item[key], str(item.setdefault("case", "image")), key in self.label_keys)
                continue
            names = [None if name is None else os.fspath(name) for name in ensure_tuple(item[key])]
            files = [name for name in names if name is not None]
            if not files:
                case = item.get("case", "without a name")
                msg = f"case {case}: '{key}' names no file; expected at least one, give the files"
                raise InputError(msg)
            item.setdefault("case", _case_of(files))
            case = str(item["case"])
            is_label = key in self.label_keys
            volume = read_volume(files, reader or reader_of(files, case, is_label))
            if len(files) < len(names):
                volume = _with_absent(volume, names, where(case, files[0]))
            volume = _whole_numbers(volume, where(case, files[0])) if is_label else volume.to(torch.float32)
            if not is_label and len(names) == 1 and self.modalities and item.get("channels"):
                volume = _select(volume, str(item["channels"]).split(","), self.modalities, where(case, files[0]))
            if isinstance(volume, MetaTensor):
                volume.meta.update({"case": case, FILES_KEY: json.dumps(names)})
            item[key] = volume
        return item


def _in_memory(image: torch.Tensor, case: str, is_label: bool) -> torch.Tensor:
    """Returns what was not read from files as if it had been."""
    volume = _whole_numbers(image, f"case {case}") if is_label else image.to(torch.float32)
    if isinstance(volume, MetaTensor):
        volume = MetaTensor(volume, meta={**volume.meta, "case": case, FILES_KEY: json.dumps([])})
    return volume


def _case_of(files: Sequence[str]) -> str:
    """Returns the case that files, or one folder, belong to."""
    return Path(os.path.abspath(files[0])).name if Path(files[0]).is_dir() else case_of_files(files)


def _with_absent(volume: torch.Tensor, names: Sequence[str | None], place: str) -> torch.Tensor:
    """Returns the volume with channels of zeros where no file is named."""
    present = [channel for channel, name in enumerate(names) if name is not None]
    if len(volume) != len(present):
        got = f"{len(volume)} channels in {len(present)} files"
        msg = f"{place}: expected one channel a file in a list with absent ones, got {got}; give 3D files"
        raise InputError(msg)
    # Zeros of NumPy take no memory until they are written.
    stacked = torch.from_numpy(np.zeros((len(names), *volume.shape[1:]), dtype=np.float32))
    stacked[present] = volume.as_tensor() if isinstance(volume, MetaTensor) else volume
    if not isinstance(volume, MetaTensor):
        return stacked
    # A single file is said to have had no channels, which would count the axis just made as a spatial one.
    return MetaTensor(stacked, meta={**volume.meta, MetaKeys.ORIGINAL_CHANNEL_DIM: 0})


def _select(volume: torch.Tensor, channels: Sequence[str], modalities: Sequence[str], place: str) -> torch.Tensor:
    """Returns the channels that a model sees, in its order, zeros for one that the file lacks."""
    if len(volume) != len(channels):
        msg = f"{place}: expected the channels {', '.join(channels)}, got {len(volume)}; correct the data set's record"
        raise InputError(msg)
    if tuple(channels) == tuple(modalities):
        return volume
    chosen = volume.new_zeros((len(modalities), *volume.shape[1:]))
    for index, name in enumerate(modalities):
        if name in channels:
            chosen[index] = volume[channels.index(name)]
    if isinstance(volume, MetaTensor):
        return MetaTensor(chosen, meta={**volume.meta, MODALITIES_KEY: ",".join(modalities), CHANNELS_KEY: ""})
    return chosen


def _whole_numbers(label: torch.Tensor, place: str) -> torch.Tensor:
    """Returns the label map as int16."""
    values = label.as_tensor() if isinstance(label, MetaTensor) else label
    if values.dtype == torch.int16:
        return label
    whole = torch.empty(values.shape, dtype=torch.int16)
    fractions, example, largest = 0, 0.0, 0.0
    for part, target in zip(values.reshape(-1).split(_PART), whole.view(-1).split(_PART), strict=True):
        part = part.to(torch.float32)
        rounded = part.round()
        fraction = ~((part - rounded).abs() <= WHOLE_NUMBER_TOLERANCE)  # written so that NaN counts as a fraction
        if fraction.any():
            example = example if fractions else part[fraction][0].item()
            fractions += int(fraction.sum())
        largest = max(largest, part.abs().max().item())
        target.copy_(rounded)
    if fractions:
        msg = (
            f"{place}: a label map holds whole numbers, this one holds {example:g} (in {fractions} voxels); "
            "resample labels with nearest neighbours, or give the right file"
        )
        raise InputError(msg)
    if largest > torch.iinfo(torch.int16).max:
        msg = f"{place}: label number {largest:g} is no label number; give the right file"
        raise InputError(msg)
    return MetaTensor(whole, meta=label.meta) if isinstance(label, MetaTensor) else whole


def files_of(volume: Any) -> list[str | None]:
    """Returns the files that a volume was read from, one a channel or one in all; [] when it does not know.

    A channel whose file is absent has None, as in the list that `LoadCased` was given.
    """
    meta = getattr(volume, "meta", {})
    if meta.get(FILES_KEY):
        return json.loads(meta[FILES_KEY])
    source = meta.get("filename_or_obj")
    return [str(source)] if source else []


def check_modalities(names: Sequence[str], modalities: Sequence[str]) -> None:
    """Checks that every name is that of a channel.

    Raises:
        InputError: when one is not.
    """
    unknown = [name for name in names if name not in modalities]
    if unknown:
        msg = f"modality '{unknown[0]}' is unknown; expected any of {', '.join(modalities) or 'none'}"
        raise InputError(msg)


class ReloadCased(MapTransform):
    """Reads the files of an image again, as they were before preprocessing (for pictures, at no cost until then).

    Args:
        keys: images that `LoadCased` read.
        names: where the untouched images go, one a key.
        modalities: name of each channel of the images.
        needed: those of them that are needed; where each channel has a file of its own, the others are left 0. None:
            all.
        allow_missing_keys: whether an item may lack a key.

    Raises: InputError when one of `needed` is no modality.
    """

    def __init__(
        self,
        keys: KeysCollection,
        names: KeysCollection,
        modalities: Sequence[str] = (),
        needed: Sequence[str] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        check_modalities(needed or (), modalities)
        self.names = ensure_tuple(names)
        self.modalities = tuple(modalities)
        self.needed = None if needed is None else tuple(needed)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Adds the images as they are on the disk.

        Raises:
            InputError: when a file cannot be read any more, or the image does not know its files.
        """
        item = dict(data)
        for key, name in self.key_iterator(item, self.names):
            files = files_of(item[key])
            if not files:
                msg = f"item '{key}' does not know the files that it was read from; read it with LoadCased"
                raise InputError(msg)
            if self.needed is not None and len(files) == len(self.modalities):
                pairs = zip(self.modalities, files, strict=True)
                needed = [file if channel in self.needed else None for channel, file in pairs]
                files = needed if any(needed) else files
            source = files if len(files) > 1 else files[0]
            taken = getattr(item[key], "meta", {}).get(MODALITIES_KEY)
            load = LoadCased(str(name), label_keys=(), modalities=str(taken).split(",") if taken else None)
            item[name] = load({**item, name: source})[name]
        return item


class DropMissingd(MapTransform):
    """Removes entries that are None: MONAI's evaluator adds a label of None to a case without one."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns the item without its empty entries among the keys."""
        return {key: value for key, value in data.items() if value is not None or key not in self.keys}


class CheckCased(MapTransform):
    """Checks a case that was just read (`LoadCased`, or `LoadImaged` with `ensure_channel_first`); changes no voxel.

    The item gains `case`, from the file name, where it has none (MONAI Label gives only image and label).

    Args:
        keys: what to check; all must lie on the grid of the first.
        modalities: names of an image's channels, in order; None: any number of any kind.
        label_keys: those of `keys` that are label maps, with one channel.
        affine_tolerance: largest difference between entries of affines (mm); None compares shapes only.
        allow_missing_keys: whether an item may lack a key.
        missing_modalities: whether channels of an image may be 0 throughout, as long as one is not: for a model trained
            with modality_dropout.
        voxel_warnings: whether to warn of voxels that look unlike those that models are trained with, see
            `check_voxels`.
        dataset: name or file of the record of the data set that a model was trained with, or that is checked.
    """

    def __init__(
        self,
        keys: KeysCollection = ("image", "label"),
        modalities: Sequence[str] | None = None,
        label_keys: KeysCollection = ("label",),
        affine_tolerance: float | None = AFFINE_TOLERANCE,
        allow_missing_keys: bool = False,
        missing_modalities: bool = False,
        voxel_warnings: bool = True,
        dataset: str | os.PathLike | None = None,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.modalities = None if modalities is None else tuple(modalities)
        self.label_keys = ensure_tuple(label_keys)
        self.affine_tolerance = affine_tolerance
        self.missing_modalities = missing_modalities
        self.voxel_warnings = voxel_warnings
        self.record = None if dataset is None else get_record(dataset)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Checks one item.

        Raises:
            InputError: when an image has the wrong number of channels, NaN or infinity, a channel without content, or
                when shapes or affines differ.
        """
        item = dict(data)
        present = list(self.key_iterator(item))
        for key in present:
            files = [file for file in files_of(item[key]) if file is not None]
            if files:
                item.setdefault("case", _case_of(files))
            if key in self.label_keys:
                self._check_label(item, key)
            else:
                self._check_channels(item, key)
                self._check_values(item, key)
        for key in present[1:]:
            self._check_grid(item, present[0], key)
            if key in self.label_keys and present[0] not in self.label_keys and self.voxel_warnings:
                for note in label_notes(item[key], item[present[0]]):
                    warn_once(f"{_place(item, key)}: {note}")
        return item

    def _check_label(self, item: Mapping[Hashable, Any], key: Hashable) -> None:
        shape = tuple(item[key].shape)
        if len(shape) != 4 or shape[0] != 1:
            place = _place(item, key)
            msg = f"{place}: expected one label map [1, H, W, D], got an array {list(shape)}; give one 3D file"
            raise InputError(msg)

    def _check_channels(self, item: Mapping[Hashable, Any], key: Hashable) -> None:
        shape = tuple(item[key].shape)
        if self.modalities is None:
            return
        if len(shape) != 4 or shape[0] != len(self.modalities):
            got = f"{shape[0]}" if len(shape) == 4 else f"{len(shape)} axes"
            expected = f"{len(self.modalities)} channels ({', '.join(self.modalities)})"
            msg = (
                f"{_place(item, key)}: expected {expected}, got {got} (array {list(shape)}); "
                f"{_channel_advice(shape, len(self.modalities))}"
            )
            raise InputError(msg)
        described = str(getattr(item[key], "meta", {}).get(CHANNELS_KEY) or "")
        check_channel_order(_place(item, key), described.split(", ") if described else (), self.modalities)

    def _names(self, count: int) -> tuple[str, ...]:
        return self.modalities or tuple(f"channel {index}" for index in range(count))

    def _check_values(self, item: Mapping[Hashable, Any], key: Hashable) -> None:
        image = item[key]
        known = isinstance(image, MetaTensor) and image.meta.get(ORIENTATION_KEY) is not None
        check_voxels(
            torch.as_tensor(image),
            self._names(len(image)),
            lambda channel: _place(item, key, channel),
            self.missing_modalities,
            float(image.affine[:3, :3].det().abs()) / 1000 if known else None,
            self.voxel_warnings,
            self.record,
        )

    def _check_grid(self, item: Mapping[Hashable, Any], first_key: Hashable, key: Hashable) -> None:
        first, other = item[first_key], item[key]
        advice = f"resample '{key}' onto the grid of '{first_key}', or give the file that belongs to it"
        expected, got = tuple(first.shape[1:]), tuple(other.shape[1:])
        if expected != got:
            msg = f"{_place(item, key)}: shape {got} of '{key}', but '{first_key}' has {expected}; {advice}"
            raise InputError(msg)
        if self.affine_tolerance is None or not (isinstance(first, MetaTensor) and isinstance(other, MetaTensor)):
            return
        apart = float((first.affine - other.affine).abs().max())
        if not apart <= self.affine_tolerance:
            msg = (
                f"{_place(item, key)}: affine of '{key}' differs from that of '{first_key}' by up to {apart:.4g} "
                f"(allowed {self.affine_tolerance:g}); {advice}"
            )
            raise InputError(msg)


def _place(item: Mapping[Hashable, Any], key: Hashable, channel: int = 0) -> str:
    """Returns which case and file a message is about."""
    files = files_of(item[key])
    named = [file for file in (*files[channel : channel + 1], *files) if file is not None]
    file = named[0] if named else f"(item '{key}', not read from a file)"
    return where(str(item.get("case", "without a name")), file)


def _channel_advice(shape: tuple[int, ...], expected: int) -> str:
    """Returns what to do about a wrong number of channels."""
    if len(shape) == 4 and shape[0] > 1 and shape[-1] == expected:
        return "the channels are last: read with ensure_channel_first=True (LoadCased does)"
    if expected == 1:
        return "give one 3D file (x, y, z)"
    return (
        f"give one 4D file (x, y, z, {expected}) or a list of {expected} files; stack_case makes the one of the other"
    )

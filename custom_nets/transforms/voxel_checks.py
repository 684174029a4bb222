"""Checks of the voxels of an image: errors where they cannot be used, warnings where they are not as trained."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import numpy as np
import torch

from custom_nets.datasets.record import Record
from custom_nets.datasets.validation import DO_WITHOUT
from custom_nets.errors import InputError

CT = "CT"
"""Name of the channel of an image in Hounsfield units, where no record tells what channels are."""

AIR_BELOW = -200.0
"""A CT has air round or in the body, which lies near -1000 HU; no voxel below this is a sign of other units."""

UNIT_RANGE = (-10_000.0, 40_000.0)
"""Hounsfield units beyond these are no measurement; metal ends below 31,000 in extended scales."""

OUTLIER = 20.0
"""A voxel that is so many times the 99.9th percentile moves mean and deviation of a whole modality."""

HEAD_MILLILITRES = 2300.0
"""No brain is as large; a head with skull, skin and neck is."""

FEW_VALUES = 6
"""An MRI has hundreds of values; so few whole numbers are those of a label map or a mask."""

LEAP = 32_000
"""Whole numbers of 16 bits end at 32,767; an MRI with voxels above this and below its negative went beyond its type."""

EMPTY_SHARE = 0.1
"""So many of the slices that are empty at one end, where another channel goes on, are no margin."""

OUTSIDE_SHARE = 0.5
"""Labels lie in the body; so many voxels outside are another case's, or are shifted."""

SCALED = 0.9999
"""Two modalities of one head do not correlate so well; a copy that was scaled and rounded does."""

_BACKGROUND_SHARE = 0.02
_SAMPLE = 1 << 18

logger = logging.getLogger(__name__)

Place = Callable[[int], str]


def check_voxels(
    image: torch.Tensor,
    names: Sequence[str],
    place: Place,
    absent: bool = False,
    voxel_millilitres: float | None = None,
    warn: bool = True,
    record: Record | None = None,
) -> None:
    """Checks the voxels of an image, and warns once of what looks unlike the images that models are trained with.

    Args:
        image: `[C, H, W, D]`.
        names: of its channels.
        place: returns how messages name case and file of a channel.
        absent: whether channels may be 0 throughout, as long as one is not.
        voxel_millilitres: volume of a voxel; None, where it is not known, leaves the size of the head unchecked.
        warn: whether to look for oddities that are no error.
        record: of the data set, or of the one that a model was trained with: what its channels are, and whether they
            are brains without skull. None knows CT by its name, and expects nothing else of other channels.

    Raises:
        InputError: for NaN or infinity, and for a channel without content.
    """
    volume = image.as_subclass(torch.Tensor)
    # A NaN shows in both. Along an axis, aminmax takes ten times as long.
    ends = [tuple(end.item() for end in torch.aminmax(channel)) for channel in volume]
    kinds = [(record.kind_of(name) if record else "other") if name != CT else CT for name in names]
    for index, (name, bounds) in enumerate(zip(names, ends, strict=True)):
        if not np.isfinite(bounds).all():
            bad = int((~torch.isfinite(volume[index])).sum())
            value = "-1000, which is air: 0 would be water" if kinds[index] == CT else "0 outside the brain or body"
            msg = (
                f"{place(index)}: {name} holds {bad} voxels that are NaN or infinite; "
                f"replace them (by {value}) and save the file again"
            )
            raise InputError(msg)
    if not any(least or most for least, most in ends):
        msg = f"{place(0)}: the whole image is 0, it was exported empty; download or export it again"
        raise InputError(msg)
    for index, (name, (least, most)) in enumerate(zip(names, ends, strict=True)):
        if least == most and (most or not absent):
            advice = "" if most else f"; {DO_WITHOUT}"
            msg = (
                f"{place(index)}: {name} has no content, every voxel is {least:g}; "
                f"the modality is missing or was exported empty, provide the real one{advice}"
            )
            raise InputError(msg)
        if warn and least < most:
            notes = _ct_notes if kinds[index] == CT else _outlier_notes
            more = record is not None and record.stripped and kinds[index] == "MRI"
            brain = _brain_notes(volume[index], least, voxel_millilitres) if more else ()
            for note in chain(notes(volume[index], least, most), brain):
                warn_once(f"{place(index)}: {name} {note}")
    if not warn:
        return
    for index, other, how in _twins(volume):
        found = f"{names[index]} holds the same voxels as {names[other]}{how}"
        warn_once(f"{place(index)}: {found}; give the file of each channel")
    for index, note in _missing_slices(volume, names, kinds):
        warn_once(f"{place(index)}: {names[index]} {note}")


def label_notes(label: torch.Tensor, image: torch.Tensor) -> Iterator[str]:
    """Yields whether a label lies where the image has nothing, as a shifted or mirrored one may.

    Args:
        label: `[1, H, W, D]`.
        image: `[C, H, W, D]`, on the same grid; where all its channels have their least value, it has nothing.
    """
    volume = image.as_subclass(torch.Tensor)
    inside = volume[:, label.as_subclass(torch.Tensor)[0] > 0]
    if inside.shape[1]:
        share = float((inside == volume.amin((1, 2, 3))[:, None]).all(0).float().mean())
        if share > OUTSIDE_SHARE:
            yield (
                f"{100 * share:.0f} % of the labelled voxels lie where the image is empty; give the label of this "
                "image, or mend its place"
            )


def _missing_slices(volume: torch.Tensor, names: Sequence[str], kinds: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yields each channel whose slices at one end of an axis are empty, where another channel goes on.

    Empty slices at both ends are a smaller field of view. A channel alone is judged by its background: a value that
    hardly occurs in the other slices is none, but for the air of a CT.
    """
    for axis in (1, 2, 3):
        steps = [slice(None), *(slice(None) if other == axis else slice(None, None, 3) for other in (1, 2, 3))]
        slices = volume[tuple(steps)].movedim(axis, 1).flatten(2)
        low, high = slices.amin(2).cpu(), slices.amax(2).cpu()
        filled = low < high
        whole = int(filled.sum(1).argmax())
        for index, own in enumerate(filled):
            if not own.any():
                continue
            first, last = int(own.nonzero()[0]), int(own.nonzero()[-1]) + 1
            counts = []
            for part in (slice(0, first), slice(last, None)):
                others = filled[:, part].any(0)
                if len(filled) == 1 and len(others):
                    value = low[0, part][0]
                    air = kinds[0] == CT and value < AIR_BELOW
                    background = (slices[0].cpu()[own] == value).float().mean() > _BACKGROUND_SHARE
                    others |= ~(background | air)
                counts.append(int(others.sum()))
            if max(counts) - min(counts) >= max(3, EMPTY_SHARE * len(own)):
                end = "first" if counts[0] > counts[1] else "last"
                beside = f", where {names[whole]} goes on" if whole != index else ""
                yield (
                    index,
                    f"is empty in its {end} {max(counts)} of {len(own)} slices along axis {axis}{beside}; if the file "
                    "is cut short, download or export it again",
                )


def _twins(volume: torch.Tensor) -> Iterator[tuple[int, int, str]]:
    """Yields each channel that holds what an earlier one does, also scaled, with that one; zeros aside."""
    if len(volume) == 1:
        return
    samples = [_sample(channel) for channel in volume]
    for index in range(1, len(volume)):
        for other in range(index):
            if torch.equal(volume[index], volume[other]):
                if volume[index].any():
                    yield index, other, ""
                    break
            elif _correlation(samples[index], samples[other]) > SCALED:
                yield index, other, ", scaled"
                break


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Returns how well a straight line fits two channels where either is not 0; 0 where one is constant there."""
    inside = (one != 0) | (other != 0)
    pair = np.stack([one[inside], other[inside]]).astype(np.float64)
    if pair.shape[1] < 3 or not pair.std(1).all():
        return 0.0
    return float(abs(np.corrcoef(*pair).item(1)))


@functools.cache
def warn_once(text: str) -> None:
    """Warns once, not in every epoch."""
    logger.warning(text)


def _sample(channel: torch.Tensor) -> np.ndarray:
    """Returns voxels spread evenly over a channel; a whole step could stay in one plane."""
    flat = channel.reshape(-1)
    picked = torch.linspace(0, len(flat) - 1, min(len(flat), _SAMPLE), dtype=torch.float64, device=flat.device)
    sample: np.ndarray = flat[picked.long()].float().numpy(force=True)
    return sample


def _share(mask: torch.Tensor) -> str:
    """Returns how many voxels there are and which part of all that is."""
    count = int(torch.count_nonzero(mask))
    return f"{count:,} voxels ({100 * count / mask.numel():.2g} %)"


def _ct_notes(channel: torch.Tensor, least: float, most: float) -> Iterator[str]:
    """Yields what of a CT cannot be Hounsfield units."""
    low, high = UNIT_RANGE
    if least < low or most > high:
        beyond = _share((channel < low) | (channel > high))
        yield (
            f"holds {beyond} beyond {low:g} to {high:g}, up to {max(-least, most):.3g}, which are no Hounsfield units; "
            "they are clipped: replace them if they lie in the body"
        )
    insist = "where they are right, set the key voxel_warnings to false"
    if least >= -1 and most <= 1:
        yield f"holds values from {least:g} to {most:g}: scaled, no Hounsfield units; give the CT as exported; {insist}"
    elif least > AIR_BELOW:
        darkest = float(np.percentile(_sample(channel), 1))
        shift = -1024 if 0 <= darkest <= 150 else round(-1000 - darkest)  # as scanners store them, as they are found
        offset = "" if most <= 255 else f"; adding {shift} would put air in its place"
        picture = " as of an 8-bit picture" if least >= 0 and most <= 255 else ""
        yield (
            f"holds values from {least:g} to {most:g}{picture}, none near air (-1000): these may be no Hounsfield units"
            f"{offset}; give the CT with its rescale applied; {insist}"
        )


def _usual(sample: np.ndarray) -> float:
    """Returns the 99.9th percentile of what is not 0, never the largest itself."""
    inside = np.abs(sample[sample != 0])
    return float(np.percentile(inside, 99.9, method="lower")) if len(inside) else 0.0


def _outlier_notes(channel: torch.Tensor, least: float, most: float) -> Iterator[str]:
    """Yields what of a channel without fixed units spoils its mean and deviation."""
    sample = _sample(channel)
    usual, values = _usual(sample), np.unique(sample)
    if len(values) <= FEW_VALUES and len(sample) > 1000 and (values == np.round(values)).all():
        yield f"holds {len(values)} different values alone, as a label map or a mask does; give the image"
    if least < -LEAP and most > LEAP:
        yield (
            f"holds values from {least:g} to {most:g}, both ends of 16 bits: bright voxels became negative; export it "
            "again with a wider type"
        )
    elif least < -usual / 2 < 0 and (sample == 0).mean() > _BACKGROUND_SHARE and (values == np.round(values)).all():
        yield (
            f"holds {_share(channel < 0)} below 0, down to {least:g}, on a background of 0, in whole numbers: an MRI "
            "has none unless it was scaled, or read with a sign that it has not; export it again"
        )
    if max(-least, most) > OUTLIER * usual > 0:
        beyond = _share(channel.abs() > OUTLIER * usual)
        yield (
            f"holds {beyond} above {OUTLIER * usual:.3g}, up to {max(-least, most):.3g}, while 99.9 % lie below "
            f"{usual:.3g}: they spoil the scaling of the modality; replace them and save the file again"
        )


def _brain_notes(channel: torch.Tensor, least: float, voxel_millilitres: float | None) -> Iterator[str]:
    """Yields what of an MRI of the brain is not as in the BraTS data: skull-stripped, background exactly 0."""
    zeros = 1 - int(torch.count_nonzero(channel)) / channel.numel()
    sample = _sample(channel)
    usual = _usual(sample)
    advice = "models are trained with brains without skull on a background of exactly 0"
    if zeros < _BACKGROUND_SHARE:
        scored = " (already scaled to a mean of 0)" if least < 0 and abs(sample.mean()) < 0.1 * usual else ""
        yield (
            f"has no background of 0{scored}: {100 * zeros:.2g} % of its voxels are 0, its darkest 5 % end at "
            f"{np.percentile(sample, 5):.3g}; {advice}: set what lies outside the brain to 0"
        )
    elif voxel_millilitres is not None and (1 - zeros) * channel.numel() * voxel_millilitres > HEAD_MILLILITRES:
        millilitres = (1 - zeros) * channel.numel() * voxel_millilitres
        yield f"holds {millilitres:,.0f} ml that are not 0, more than a brain; {advice}: strip the skull first"

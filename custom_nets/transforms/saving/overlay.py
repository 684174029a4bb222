"""A picture of each case: predicted regions, and the label's, over the image."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import SpatialResample, Transform

from custom_nets.errors import InputError
from custom_nets.io.files import atomic_file
from custom_nets.transforms.loading import check_modalities
from custom_nets.transforms.regions import check_names
from custom_nets.transforms.saving.case_files import case_id, result_file
from custom_nets.transforms.saving.meshes import affine_of
from custom_nets.transforms.saving.overlay_figure import draw_overlay


@dataclass(frozen=True)
class OverlaySettings:
    """Part and grey values of an image that a picture shows.

    Args:
        modalities: name of each channel of the image.
        shown: those of them that are shown, one a row; None takes all.
        window: intensities shown black and white (HU for CT); None adapts it to each case.
        focus: the region through whose largest section the slices go, see `draw_overlay`; None takes the outermost.
        dpi: dots an inch; a picture is 14 inches wide.
        reread: whether `SaveResultsd` shows the files of `image`, read again; else it shows `image` as it is in the
            item, which must then lie on the prediction's grid (else it is resampled) and have the unit of `window`.

    Raises: InputError when one of `shown` is no modality.
    """

    modalities: Sequence[str]
    shown: Sequence[str] | None = None
    window: Sequence[float] | None = None
    focus: str | None = None
    dpi: int = 110
    reread: bool = True

    def __post_init__(self) -> None:
        check_modalities(self.names, self.modalities)

    @property
    def names(self) -> tuple[str, ...]:
        """The modalities shown, one a row."""
        return tuple(self.modalities if self.shown is None else self.shown)


class SaveOverlayd(Transform):
    """Writes one picture a case, `<output_dir>/<case>/<case>_overlay.png`, see `draw_overlay`.

    An image or a label on another grid than the prediction's (as after `Invertd`, which restores the prediction alone)
    is resampled to it. The item is returned unchanged.

    Args:
        output_dir: folder of all cases.
        regions: name of each channel of the prediction; it holds the voxels above 0.5.
        settings: part and grey values of the image that are shown.
        image_key: MetaTensor `[C, H, W, D]`.
        pred_key: MetaTensor `[R, H, W, D]`, probabilities or binary.
        label_key: MetaTensor `[R, H, W, D]`, binary regions; None, or missing in an item, draws no label.
        case_key: where the item names its case; without it the name of the file read serves.
        allow_missing_keys: whether an item may lack the image or the prediction; it then gets no picture.

    Raises: InputError when the focus is no region.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike,
        regions: Sequence[str],
        settings: OverlaySettings,
        image_key: str = "image",
        pred_key: str = "pred",
        label_key: str | None = None,
        case_key: str = "case",
        allow_missing_keys: bool = False,
    ) -> None:
        check_names([] if settings.focus is None else [settings.focus], regions)
        self.image_key = image_key
        self.pred_key = pred_key
        self.label_key = label_key
        self.output_dir = Path(output_dir)
        self.regions = tuple(regions)
        self.settings = settings
        self.case_key = case_key
        self.allow_missing_keys = allow_missing_keys

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Draws and writes the picture of one case.

        Raises:
            InputError: when a tensor lacks its affine or has another number of channels than names, or the item names
                no case.
            KeyError: when the image or the prediction is missing and may not be.
        """
        item = dict(data)
        if self.allow_missing_keys and not {self.image_key, self.pred_key} <= set(item):
            return item
        prediction = item[self.pred_key]
        case = case_id(item, self.image_key, self.case_key)
        affine = affine_of(prediction, self.regions, f"case {case}: '{self.pred_key}'")
        label = item.get(self.label_key) if self.label_key is not None else None
        if label is not None:
            affine_of(label, self.regions, f"case {case}: '{self.label_key}'")
            label = self._on_grid(label, prediction, "nearest")
        image, modalities, names = item[self.image_key], list(self.settings.modalities), self.settings.names
        if len(image) != len(modalities):
            expected = f"expected the channels {', '.join(modalities)}, got {len(image)}"
            msg = f"case {case}: '{self.image_key}': {expected}; name each channel of the image in `modalities`"
            raise InputError(msg)
        image = self._on_grid(_take_channels(image, [modalities.index(n) for n in names]), prediction, "bilinear")
        figure = draw_overlay(
            image,
            prediction,
            affine,
            self.regions,
            label,
            case,
            names,
            window=self.settings.window,
            focus=self.settings.focus,
        )
        with atomic_file(result_file(self.output_dir, case, "_overlay.png")) as file:
            # Lossless at any level: this one takes a third of the time of the usual 6, for a fifth more bytes.
            options = {"compress_level": 2}
            figure.savefig(
                file, format="png", dpi=self.settings.dpi, facecolor=figure.get_facecolor(), pil_kwargs=options
            )
        return item

    @staticmethod
    def _on_grid(tensor: torch.Tensor, reference: MetaTensor, mode: str) -> torch.Tensor:
        """Brings a MetaTensor onto the reference's grid, unless it is there already or says nothing about its own."""
        own, wanted = getattr(tensor, "affine", None), reference.affine
        same_shape = tensor.shape[1:] == reference.shape[1:]
        if own is None or (same_shape and torch.allclose(own.cpu().double(), wanted.cpu().double(), atol=1e-3)):
            return tensor
        # Beyond its edge an image goes on as it ends (air), a label does not.
        padding = "zeros" if mode == "nearest" else "border"
        resample = SpatialResample(mode=mode, padding_mode=padding, dtype=np.float32)
        return resample(tensor, dst_affine=wanted.cpu(), spatial_size=reference.shape[1:])


def _take_channels(image: torch.Tensor, channels: list[int]) -> torch.Tensor:
    """Returns some channels of an image `[C, H, W, D]`: a view where they are evenly spaced, as any two are."""
    start, stop = min(channels, default=0), max(channels, default=-1) + 1
    step = max(channels[1] - channels[0], 1) if len(channels) > 1 else 1
    return image[start:stop:step] if channels == list(range(start, stop, step)) else image[channels]

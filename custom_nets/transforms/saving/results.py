"""Everything that inference writes for a case."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from monai.transforms import Compose, DeleteItemsd, SaveImaged

from custom_nets.transforms.loading import ReloadCased
from custom_nets.transforms.saving.case_files import case_name
from custom_nets.transforms.saving.meshes import SaveRegionMeshesd, Space
from custom_nets.transforms.saving.overlay import SaveOverlayd
from custom_nets.transforms.saving.volumes import SaveRegionVolumesd
from custom_nets.transforms.saving.whole_files import WholeNibabelWriter

REGIONS = ("WT", "TC", "ET")


class SaveMapsd(SaveImaged):
    """Writes maps of a case (probabilities, uncertainty), float32, as `<output_dir>/<case>/<case>_<postfix>.nii.gz`.

    Args:
        keys: MetaTensors `[R, H, W, D]` that know their case (see `LoadCased`); a file has the channels last.
        output_dir: folder of all cases.
        postfix: ends the file name.
        allow_missing_keys: whether an item may lack a key.
    """

    def __init__(
        self, keys: Sequence[str] | str, output_dir: str | os.PathLike, postfix: str, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(
            keys,
            output_dir=os.fspath(output_dir),
            output_postfix=postfix,
            output_name_formatter=case_name,
            resample=False,
            writer=WholeNibabelWriter,
            print_log=False,
            allow_missing_keys=allow_missing_keys,
        )


class SaveResultsd(SaveImaged):
    """Writes probabilities, meshes, volumes and an overlay picture of `pred`, and of `label` where there is one.

    It is a `SaveImaged` for programs that take the place of what writes, as MONAI Label does: they leave it out.

    Args:
        output_dir: folder of all cases.
        regions: name of each channel.
        probabilities: whether to write the probabilities.
        meshes: whether to write a mesh of each region, see `SaveRegionMeshesd`.
        mesh_formats: of the meshes.
        mesh_space: of the meshes.
        overlay: whether to draw a picture, see `SaveOverlayd`.
        reread: whether the picture shows the files of `image`, read again; else it shows `image` as it is in the item,
            which must then lie on the prediction's grid (else it is resampled) and have the unit of `window`.
        channels: of the image, in the picture.
        channel_names: name of each of `channels`.
        window: intensities shown black and white (HU for CT); None adapts it to each case.
        focus: the region through whose largest section the picture's slices go; None takes the outermost.
        parts: names of the regions whose connected parts are listed beside the volumes, see `region_volumes`.

        first: transforms that write what matters most, the label map, before all this; the item that they get is a
            copy, so that `pred` stays.

    Raises: InputError when `focus` or one of `parts` is no region, or for another number of names than channels.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike,
        regions: Sequence[str] = REGIONS,
        probabilities: bool = False,
        meshes: bool = True,
        mesh_formats: Sequence[str] = ("obj",),
        mesh_space: Space = "RAS",
        overlay: bool = True,
        channels: Sequence[int] = (0, 2),
        channel_names: Sequence[str] | None = ("FLAIR", "T1ce"),
        window: Sequence[float] | None = None,
        focus: str | None = None,
        parts: Sequence[str] = (),
        reread: bool = True,
        first: Sequence[Callable[[dict], dict]] = (),
    ) -> None:
        both: dict[str, Any] = {"keys": ("pred", "label"), "suffix": ("", "_label"), "allow_missing_keys": True}
        steps: list = [SaveRegionVolumesd(**both, output_dir=output_dir, regions=regions, parts=parts)]
        if probabilities:
            steps.append(SaveMapsd("pred", output_dir, "probabilities"))
        if meshes:
            steps.append(
                SaveRegionMeshesd(
                    **both,
                    name=("prediction", "label"),
                    output_dir=output_dir,
                    regions=regions,
                    formats=mesh_formats,
                    space=mesh_space,
                )
            )
        shown = "original" if reread else "image"
        if overlay and reread:
            steps.append(ReloadCased("image", shown, channels=channels))
        if overlay:
            steps.append(
                SaveOverlayd(
                    shown,
                    "pred",
                    "label",
                    output_dir,
                    regions,
                    channels=channels,
                    channel_names=channel_names,
                    window=window,
                    focus=focus,
                )
            )
        if overlay and reread:
            steps.append(DeleteItemsd(shown))  # as large as the case itself
        super().__init__("pred", output_dir=os.fspath(output_dir), print_log=False)
        self.first = Compose(first)
        self.steps = Compose(steps)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Writes the results of one case; the item is returned unchanged."""
        self.first(dict(data))
        return self.steps(dict(data))

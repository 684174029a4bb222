"""Everything that inference writes for a case."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from monai.transforms import Compose, DeleteItemsd, SaveImaged

from custom_nets.io.nifti import describe_channels
from custom_nets.transforms.loading import ReloadCased
from custom_nets.transforms.saving.case_files import case_name
from custom_nets.transforms.saving.meshes import MeshSettings, SaveRegionMeshesd
from custom_nets.transforms.saving.overlay import OverlaySettings, SaveOverlayd
from custom_nets.transforms.saving.segments import SaveSegmentsd, SegmentSettings
from custom_nets.transforms.saving.volumes import SaveRegionVolumesd
from custom_nets.transforms.saving.whole_files import WholeNibabelWriter


class SaveMapsd(SaveImaged):
    """Writes maps of a case (probabilities, uncertainty), float32, as `<output_dir>/<case>/<case>_<postfix>.nii.gz`.

    Args:
        keys: MetaTensors `[R, H, W, D]` that know their case (see `LoadCased`); a file has the channels last.
        output_dir: folder of all cases.
        postfix: ends the file name.
        channels: names of the channels, which the file's header tells where it has the room (see `describe_channels`).
        allow_missing_keys: whether an item may lack a key.
    """

    def __init__(
        self,
        keys: Sequence[str] | str,
        output_dir: str | os.PathLike,
        postfix: str,
        channels: Sequence[str] = (),
        allow_missing_keys: bool = False,
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
        if channels:
            self.set_options(write_kwargs={"description": describe_channels(channels)})


class SaveResultsd(SaveImaged):
    """Writes probabilities, meshes, segments, volumes and a picture of `pred`, and of `label` where there is one.

    It is a `SaveImaged` for programs that take the place of what writes, as MONAI Label does: they leave it out.

    Args:
        output_dir: folder of all cases.
        regions: name of each channel.
        probabilities: whether to write the probabilities.
        meshes: of each region, see `SaveRegionMeshesd`; None writes none.
        overlay: picture of the case, see `SaveOverlayd`; None draws none.
        parts: names of the regions whose connected parts are listed beside the volumes, see `region_volumes`.
        segments: formats that hold the regions beside the label map, see `SaveSegmentsd`; None writes none.
        first: transforms that write what matters most, the label map, before all this; the item that they get is a
            copy, so that `pred` stays.

    Raises: InputError when the picture's focus or one of `parts` is no region.
    """

    hand_over: Callable[[dict], None] | None = None
    """Takes the place of `write` where others do it, see `ResultWriters`; no setting, so of the class."""

    def __init__(
        self,
        output_dir: str | os.PathLike,
        regions: Sequence[str],
        probabilities: bool = False,
        meshes: MeshSettings | None = None,
        overlay: OverlaySettings | None = None,
        parts: Sequence[str] = (),
        segments: SegmentSettings | None = None,
        first: Sequence[Callable[[dict], dict]] = (),
    ) -> None:
        both: dict[str, Any] = {
            "keys": ("pred", "label"),
            "output_dir": output_dir,
            "regions": regions,
            "suffix": ("", "_label"),
            "allow_missing_keys": True,
        }
        steps: list = [SaveRegionVolumesd(**both, parts=parts, dataset=segments.dataset if segments else None)]
        if probabilities:
            steps.append(SaveMapsd("pred", output_dir, "probabilities", regions))
        if segments is not None:
            steps.append(SaveSegmentsd("pred", output_dir, regions, segments))
        if meshes is not None:
            steps.append(SaveRegionMeshesd(**both, settings=meshes, name=("prediction", "label")))
        if overlay is not None:
            key = "original" if overlay.reread else "image"
            draw = SaveOverlayd(output_dir, regions, overlay, key, label_key="label")
            reload = ReloadCased("image", key, overlay.modalities, overlay.names)
            # What is read again is as large as the case itself.
            steps += [reload, draw, DeleteItemsd(key)] if overlay.reread else [draw]
        super().__init__("pred", output_dir=os.fspath(output_dir), print_log=False)
        self.read_keys = ("pred", "label") if overlay is None or overlay.reread else ("pred", "label", "image")
        self.first = Compose(first)
        self.steps = Compose(steps)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Writes the results of one case, or hands them over; the item is returned unchanged."""
        item = dict(data)
        (self.hand_over or self.write)(item)
        return item

    def write(self, item: Mapping[Hashable, Any]) -> None:
        """Writes the results of one case."""
        self.first(dict(item))
        self.steps(dict(item))

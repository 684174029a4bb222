"""CT intensities: Hounsfield units, windowed and scaled."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform

from custom_nets.errors import InputError
from custom_nets.transforms.slabs import split_slabs


def check_window(window: Sequence[float]) -> tuple[float, float]:
    """Returns a window as two numbers, low and high.

    Raises:
        InputError: when it is something else.
    """
    bounds = tuple(float(bound) for bound in window)
    if len(bounds) != 2 or not bounds[0] < bounds[1]:
        msg = f"window is {list(window)}; expected two Hounsfield units, low before high, such as [-200, 250]"
        raise InputError(msg)
    return bounds[0], bounds[1]


def intensity_unit(window: Sequence[float]) -> float:
    """Returns the Hounsfield units of one unit of intensity: the next power of two from the window's width on."""
    low, high = check_window(window)
    return 2.0 ** math.ceil(math.log2(high - low))


def to_intensities(units: Sequence[float] | None, window: Sequence[float]) -> list[float] | None:
    """Returns the intensities that `WindowHounsfield` gives Hounsfield units; for configs, None for None.

    >>> to_intensities([-200, 56], (-200, 250))
    [0.0, 0.5]
    """
    return None if units is None else [(unit - window[0]) / intensity_unit(window) for unit in units]


class WindowHounsfield(Transform):
    """Clips a CT `[1, H, W, D]` to a window of Hounsfield units and scales it to a part of 0..1.

    Air becomes 0, as does what scanners write outside their field of view (-2048, -3024), and as networks take what
    lies outside an image. One is the next power of two from the width of the window on: 512 for -200..250, whose upper
    end becomes 0.879. So every whole Hounsfield unit is exact in half precision (of windows up to 2048 wide). Works
    slab by slab: beside the result there is no copy of the volume. Metadata stay.

    Args:
        window: Hounsfield units; the lower end becomes 0, what lies outside is clipped.
        dtype: of the result. float16 halves the memory of float32.

    Raises: InputError for a window that is none.
    """

    def __init__(self, window: Sequence[float] = (-200, 250), dtype: torch.dtype = torch.float16) -> None:
        self.window = check_window(window)
        self.unit = intensity_unit(window)
        self.dtype = dtype

    def __call__(self, image: NdarrayOrTensor, source: str = "the image") -> torch.Tensor:
        """Windows one image.

        Args:
            image: Hounsfield units `[1, H, W, D]`, of any type.
            source: how an error names the image.

        Raises:
            InputError: when no voxel lies strictly inside the window.
        """
        values = torch.as_tensor(image).as_subclass(torch.Tensor)
        windowed = torch.empty(values.shape, dtype=self.dtype, device=values.device)
        low, high = self.window
        seen = torch.zeros((), dtype=torch.bool, device=values.device)
        for units, scaled in zip(split_slabs(values), split_slabs(windowed), strict=True):
            slab = units.float()
            seen |= ((slab > low) & (slab < high)).any()
            scaled.copy_((slab.clamp(low, high) - low) / self.unit)
        if not seen:
            least, most = (float(bound) for bound in torch.aminmax(values))
            msg = (
                f"{source} holds values from {least:g} to {most:g}, none inside the window {low:g}..{high:g}; expected "
                "Hounsfield units: give the CT as exported, or set the key hu_window"
            )
            raise InputError(msg)
        if not isinstance(image, MetaTensor):
            return windowed
        return MetaTensor(windowed, meta=image.meta, applied_operations=image.applied_operations)


class WindowHounsfieldd(MapTransform):
    """Dictionary form of `WindowHounsfield`."""

    def __init__(
        self,
        keys: KeysCollection,
        window: Sequence[float] = (-200, 250),
        dtype: torch.dtype = torch.float16,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.windower = WindowHounsfield(window, dtype)
        self.output_dtype = dtype

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.windower(item[key], f"case {item.get('case', 'without a name')}: '{key}'")
        return item

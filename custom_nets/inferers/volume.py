"""Dense probabilities from a convolutional network: in one pass where memory allows it, else in windows."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.inferers import Inferer, SlidingWindowInferer
from monai.utils import StrEnum, convert_to_dst_type, ensure_tuple_rep

from custom_nets.errors import InputError
from custom_nets.inferers.arguments import check_image, checked_choice, checked_count, is_number, shown
from custom_nets.networks.base import divisor_of

_logger = logging.getLogger(__name__)


class VolumeMode(StrEnum):
    """Modes of a `VolumeInferer`."""

    AUTO = "auto"
    WHOLE = "whole"
    WINDOWS = "windows"


class VolumeInferer(Inferer):
    """Dense probabilities `[B, R, H, W, D]` from a network that maps `[B, C, H, W, D]` to logits `[B, R, H, W, D]`.

    The image is padded with zeros, at the ends of its axes, to sides that the network takes; the result has the
    image's size again. The network is given plain tensors.

    Modes:

    - `whole`: one forward pass over the padded image. What a fully convolutional network knows best: every voxel
      sees all of its surroundings, and nothing is computed twice.
    - `windows`: overlapping windows of `roi_size` (MONAI's `SlidingWindowInferer`), whose probabilities are averaged
      with Gaussian weights. An axis on which the image is shorter has a window just as long as the padded image.
    - `auto`: `whole` where the padded image has at most `max_whole_voxels` voxels, else `windows`. When a GPU's
      memory does not suffice for the whole pass, this image goes in windows, and so does from then on every image of
      as many voxels; one warning is logged.

    Args:
        roi_size: sides of a window in voxels, one for all axes or one each for H, W and D; multiples of the
            divisor.
        mode: `auto`, `whole` or `windows`.
        max_whole_voxels: see mode `auto`; counts the padded voxels of the whole batch. The default, 160 x 192 x 160,
            is the grid that a brain at 1 mm fits after cropping: such a case goes whole, one that was not cropped
            (240 x 240 x 155) in windows.
        overlap: share of a window that the next one covers again, along each axis.
        sw_batch_size: windows in one forward pass.
        divisor: sides given to the network are multiples of this; None: what the network declares (`network.divisor`, 1
            where it declares nothing).

    Raises:
        InputError: when an argument is out of its range.
    """

    def __init__(
        self,
        roi_size: Sequence[int] | int,
        mode: str = VolumeMode.AUTO,
        max_whole_voxels: int = 160 * 192 * 160,
        overlap: float = 0.5,
        sw_batch_size: int = 1,
        divisor: int | None = None,
    ) -> None:
        super().__init__()
        self.mode = VolumeMode(checked_choice("mode", mode, VolumeMode))
        self.max_whole_voxels = checked_count("max_whole_voxels", max_whole_voxels, least=0)
        self.sw_batch_size = checked_count("sw_batch_size", sw_batch_size)
        self.divisor = None if divisor is None else checked_count("divisor", divisor)
        self.roi_size = _checked_sides(roi_size, self.divisor or 1)
        if not (is_number(overlap) and 0 <= overlap < 1):
            msg = f"overlap is {shown(overlap)}; expected a share of the window from 0 to below 1"
            raise InputError(msg)
        self.overlap = overlap
        self._too_many = math.inf  # so many voxels did not fit into memory

    @torch.no_grad()
    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Infers the probabilities of every voxel.

        Args:
            inputs: image `[B, C, H, W, D]`.
            network: see the class; in evaluation mode.
            args: passed on to the network.
            kwargs: passed on to the network.

        Returns:
            Probabilities `[B, R, H, W, D]`, float32, on the device and with the meta data of `inputs`.

        Raises:
            InputError: when the image has no three axes of space, the windows do not suit the network, or it returns no
                logits of the image's size.
        """
        check_image(inputs)
        divisor = self.divisor or divisor_of(network)
        _checked_sides(self.roi_size, divisor)
        image = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        sides = [math.ceil(side / divisor) * divisor for side in image.shape[2:]]
        voxels = len(image) * math.prod(sides)

        def probabilities(part: torch.Tensor) -> torch.Tensor:
            # The windows are float32 so that their sum is; the network gets what it was given.
            return _checked_logits(network(part.to(image.dtype), *args, **kwargs), part).float().sigmoid()

        result = None
        if self.mode == VolumeMode.WHOLE:
            result = probabilities(_pad(image, sides))
        elif self.mode == VolumeMode.AUTO and voxels <= self.max_whole_voxels and voxels < self._too_many:
            result = self._try_whole(_pad(image, sides), probabilities)
        if result is None:
            result = self._windows(image, sides, probabilities)
        height, width, depth = image.shape[2:]
        cropped = result[:, :, :height, :width, :depth]
        return convert_to_dst_type(cropped.contiguous(), inputs, dtype=torch.float32)[0]

    def _try_whole(
        self, padded: torch.Tensor, probabilities: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor | None:
        """The whole pass, or None where memory does not suffice."""
        try:
            return probabilities(padded)
        except torch.cuda.OutOfMemoryError:
            if self._too_many == math.inf:
                _logger.warning(
                    "the GPU's memory does not suffice for an image of %s voxels at once: going on in windows of %s",
                    " x ".join(str(side) for side in padded.shape[2:]),
                    " x ".join(str(side) for side in self.roi_size),
                )
            self._too_many = len(padded) * math.prod(padded.shape[2:])
        # Outside of the handler, whose traceback holds the activations.
        if padded.is_cuda:
            torch.cuda.empty_cache()
        return None

    def _windows(
        self, image: torch.Tensor, sides: Sequence[int], probabilities: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        roi = [min(window, side) for window, side in zip(self.roi_size, sides, strict=True)]
        inferer = SlidingWindowInferer(roi, self.sw_batch_size, self.overlap, mode="gaussian")
        # At the ends and not, as MONAI would, on both sides: a single window is then the same as the whole pass.
        long_enough = [max(window, side) for window, side in zip(roi, image.shape[2:], strict=True)]
        blended = inferer(_pad(image, long_enough).float(), probabilities)
        return blended.clamp_(0, 1)  # type: ignore[union-attr]  # a mean may round to just above 1


def _pad(image: torch.Tensor, sides: Sequence[int]) -> torch.Tensor:
    """Zeros at the ends of H, W and D, up to the given sides."""
    missing = [side - own for side, own in zip(sides, image.shape[2:], strict=True)]
    return F.pad(image, [0, missing[2], 0, missing[1], 0, missing[0]]) if any(missing) else image


def _checked_logits(logits: Any, image: torch.Tensor) -> torch.Tensor:
    if isinstance(logits, torch.Tensor) and logits.ndim == 5 and logits.shape[2:] == image.shape[2:]:
        return logits
    found = f"a tensor {list(logits.shape)}" if isinstance(logits, torch.Tensor) else f"a {type(logits).__name__}"
    msg = (
        f"network: gave {found} for an image {list(image.shape)}; expected logits [B, R, H, W, D] of the image's size "
        "(call network.eval() first)"
    )
    raise InputError(msg)


def _checked_sides(roi_size: Sequence[int] | int, divisor: int) -> tuple[int, ...]:
    try:
        sides = ensure_tuple_rep(roi_size, 3)
        valid = all(side == int(side) and side >= divisor and side % divisor == 0 for side in sides)
    except (TypeError, ValueError):
        valid = False
    if not valid:
        msg = (
            f"roi_size is {shown(roi_size)}; expected one side or three (along H, W and D) that are multiples of "
            f"{divisor}, as the network needs them"
        )
        raise InputError(msg)
    return tuple(int(side) for side in sides)

"""Bias-field correction of magnetic resonance images (N4)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data.utils import affine_to_spacing
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_dst_type, convert_to_numpy, ensure_tuple, optional_import
from scipy import ndimage

from custom_nets.errors import InputError
from custom_nets.transforms.saving.meshes import bounding_box

_SPLINE_ORDER = 3

_FAINTEST = 0.01
"""Voxels below this share of the mean are left out of the estimate: their logarithms would stretch its histogram."""

_MOST_NEGATIVE = 0.25
"""An image whose content is negative in more than this share of voxels is no longer as scanned, but normalised."""


class CorrectBiasField(Transform):
    """Divides each channel of an image by its bias field, the slow drift of brightness that the coil causes (N4).

    N4 estimates the field over the non-zero voxels of the channel, on a subsampled copy, as a cubic B-spline; the field
    is then applied at full resolution. Background stays 0, the mean over the non-zero voxels is kept, and a channel
    that is 0 throughout (an absent modality) stays as it is. Negative voxels have no logarithm: they take no part in
    the estimate, but are divided by the field too. The background around the content makes no difference.

    Place it before intensities are normalised. A modality of a BraTS case (240x240x155) takes 2 to 5 s on two cores,
    and each process another 7 s to load itk, so in training it belongs before a cache. Results are equal to the bit for
    the same number of threads, and differ by rounding (1e-6) for another.

    Args:
        shrink_factor: the estimate uses every such voxel along each axis.
        iterations: the most iterations at each level; the mesh of the spline is halved from one level to the next.
        convergence_threshold: ends a level when the field changes by less (coefficient of variation).
        spline_distance: width of the mesh at the first level, in mm (in voxels for a plain tensor).

    Shapes: image `[C, H, W, D]` to `float32 [C, H, W, D]`; the spacing comes from the affine of a MetaTensor.
    Raises: InputError when the package `itk` is not installed, or for a parameter out of range.
    Source: Tustison et al., "N4ITK: improved N3 bias correction", IEEE TMI 29(6), 2010, doi 10.1109/TMI.2010.2046908.
    """

    def __init__(
        self,
        shrink_factor: int = 4,
        iterations: Sequence[int] = (50, 50, 50, 50),
        convergence_threshold: float = 1e-3,
        spline_distance: float = 200.0,
    ) -> None:
        if not optional_import("itk")[1]:
            msg = "bias-field correction needs the package itk, which is not installed: pip install itk"
            raise InputError(msg)
        self.shrink_factor = shrink_factor
        self.iterations = tuple(int(most) for most in ensure_tuple(iterations))
        self.convergence_threshold = convergence_threshold
        self.spline_distance = spline_distance
        if shrink_factor < 1 or not self.iterations or min(self.iterations) < 1 or spline_distance <= 0:
            msg = (
                f"shrink_factor {shrink_factor}, iterations {self.iterations}, spline_distance {spline_distance}: "
                "expected a factor of at least 1, at least one level of at least one iteration, and a distance above 0"
            )
            raise InputError(msg)

    def __call__(self, image: NdarrayOrTensor, source: str = "the image") -> NdarrayOrTensor:
        """Corrects one image.

        Args:
            image: intensities as scanned `[C, H, W, D]`.
            source: how an error names the image.

        Raises:
            InputError: for another number of axes, and for a channel that is normalised already or not finite.
        """
        if image.ndim != 4:
            msg = f"{source} has shape {tuple(image.shape)}; bias-field correction expects an image [C, H, W, D]"
            raise InputError(msg)
        affine = getattr(image, "affine", None)
        spacing = np.ones(3) if affine is None else convert_to_numpy(affine_to_spacing(affine)).astype(np.float64)
        corrected = convert_to_numpy(image).astype(np.float32)
        for index, channel in enumerate(corrected):
            box = bounding_box(channel != 0)
            if box is not None:
                channel[box] = self._correct(channel[box], spacing, f"{source}, channel {index}")
        return convert_to_dst_type(corrected, image, dtype=corrected.dtype)[0]

    def _correct(self, content: np.ndarray, spacing: np.ndarray, source: str) -> np.ndarray:
        """Corrects the box `[h, w, d]` round the content of a channel."""
        inside = content != 0
        mean = content[inside].mean(dtype=np.float64)
        negative = np.count_nonzero(content < 0) / np.count_nonzero(inside)
        if not (0 < mean < math.inf and negative <= _MOST_NEGATIVE):
            msg = (
                f"{source}: bias-field correction expects intensities as scanned, finite and mostly positive, found a "
                f"mean of {mean:.3g} and {negative:.0%} negative voxels; place it before normalisation"
            )
            raise InputError(msg)
        first = [min(self.shrink_factor, size) // 2 for size in content.shape]
        samples = content[tuple(slice(start, None, self.shrink_factor) for start in first)]
        used = samples > _FAINTEST * mean
        if not used.any() or np.ptp(samples[used]) == 0:  # one intensity has no drift, and no histogram to sharpen
            return content
        # The spline's domain is a whole number of meshes wide, so that their width does not depend on the content's.
        step = spacing * self.shrink_factor
        meshes = np.ceil((samples.shape + np.ones(3)) * step / self.spline_distance).astype(int)
        widths = np.maximum(np.rint(meshes * self.spline_distance / step).astype(int) + 1, np.add(samples.shape, 2))
        before = (widths - samples.shape) // 2
        around = list(zip(before, widths - samples.shape - before, strict=True))
        log_field = self._estimate(np.pad(samples, around), np.pad(used, around), meshes)
        drift = ndimage.affine_transform(
            log_field,
            np.full(3, 1 / self.shrink_factor),
            offset=before - np.array(first) / self.shrink_factor,
            output_shape=content.shape,
            order=1,
            mode="nearest",
        )
        divided = content * np.exp(-drift)
        corrected: np.ndarray = divided * np.float32(mean / divided[inside].mean(dtype=np.float64))
        return corrected

    def _estimate(self, image: np.ndarray, mask: np.ndarray, meshes: np.ndarray) -> np.ndarray:
        """Returns the logarithm of the field `[h, w, d]`.

        Args:
            image: positive where used `[h, w, d]`.
            mask: voxels used `[h, w, d]`.
            meshes: meshes along each axis at the first level; ITK needs no spacing beside them.
        """
        itk, _ = optional_import("itk")
        pair = [itk.image_from_array(volume) for volume in (image, mask.astype(np.uint8))]
        kinds = type(pair[0]), type(pair[1]), type(pair[0])
        n4 = itk.N4BiasFieldCorrectionImageFilter[kinds].New(Input=pair[0], MaskImage=pair[1])
        n4.SetNumberOfControlPoints((meshes[::-1] + _SPLINE_ORDER).tolist())  # ITK counts axes from the fastest one
        n4.SetNumberOfFittingLevels([len(self.iterations)] * 3)
        n4.SetMaximumNumberOfIterations(self.iterations)
        n4.SetConvergenceThreshold(self.convergence_threshold)
        n4.Update()
        log_field: np.ndarray = itk.array_from_image(n4.ReconstructBiasField(n4.GetLogBiasFieldControlPointLattice()))
        return log_field


class CorrectBiasFieldd(MapTransform):
    """Dictionary form of `CorrectBiasField`."""

    def __init__(
        self,
        keys: KeysCollection,
        shrink_factor: int = 4,
        iterations: Sequence[int] = (50, 50, 50, 50),
        convergence_threshold: float = 1e-3,
        spline_distance: float = 200.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.correct = CorrectBiasField(shrink_factor, iterations, convergence_threshold, spline_distance)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.correct(item[key], f"case {item.get('case', 'without a name')}: '{key}'")
        return item

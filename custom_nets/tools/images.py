"""Images in memory as the bundles take them: of nibabel, SimpleITK, itk, NumPy, PyTorch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.utils import MetaKeys, SpaceKeys

from custom_nets.errors import InputError
from custom_nets.io.nifti import AFFINE_TOLERANCE
from custom_nets.io.orientation import forms_as_text, millimetres_a_unit, orientation_of
from custom_nets.io.readers import FORMS_KEY, ORIENTATION_KEY

_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def is_path(image: Any) -> bool:
    """Tells whether an image is the name of a file or folder."""
    return isinstance(image, (str, os.PathLike))


def read_image(image: Any, modalities: Sequence[str], affine: Any = None) -> MetaTensor:
    """Returns an image that is in memory as `LoadCased` returns one that it reads.

    Args:
        image: of nibabel `(x, y, z)` or `(x, y, z, C)`; of SimpleITK or itk, scalar or vector; a NumPy array or a
            tensor `[C, H, W, D]`, or `[H, W, D]` where there is one channel; or a list of these, one a modality, in
            their order.
        modalities: channels that the network sees, by name.
        affine: of arrays and plain tensors: voxel indices to RAS millimetres `[4, 4]`.

    Returns:
        float32 `[C, H, W, D]`.

    Raises:
        InputError: when channels, grids or the type do not fit, or an array comes without affine.
    """
    if isinstance(image, (list, tuple)):
        return _stacked([_volume(part, affine) for part in image], modalities)
    volume = _volume(image, affine)
    if len(volume) != len(modalities):
        msg = f"image: {len(volume)} channels, expected {len(modalities)} ({', '.join(modalities)}), in this order"
        raise InputError(msg)
    return volume


def in_order(images: Mapping[str, Any], modalities: Sequence[str]) -> list[Any]:
    """Returns the values of a mapping in the order of the modalities.

    Raises:
        InputError: when one is missing, or one too many.
    """
    if set(images) != set(modalities):
        msg = f"image: has {', '.join(map(str, images))}; expected {', '.join(modalities)}"
        raise InputError(msg)
    return [images[name] for name in modalities]


def _volume(image: Any, affine: Any) -> MetaTensor:
    package = type(image).__module__.split(".")[0]
    if isinstance(image, nib.spatialimages.SpatialImage):
        return _of_nibabel(image)
    if package == "SimpleITK":
        return _of_simple_itk(image)
    if package == "itk":
        from monai.data.itk_torch_bridge import itk_image_to_metatensor

        channel = -1 if image.GetNumberOfComponentsPerPixel() > 1 else None
        volume = itk_image_to_metatensor(image, channel_dim=channel, dtype=float)
        return _made(volume.as_tensor().numpy(), _TO_RAS @ volume.affine.numpy())
    if isinstance(image, MetaTensor) and affine is None:
        return _made(_with_channel(image.as_tensor().cpu().numpy()), image.affine.cpu().numpy())
    if not isinstance(image, (np.ndarray, torch.Tensor)):
        msg = (
            f"image: is a {type(image).__name__}; expected a path, several paths, an image of nibabel, SimpleITK or "
            "itk, or an array with affine"
        )
        raise InputError(msg)
    if affine is None:
        msg = "image: an array does not know its place; give affine (voxel indices to RAS millimetres, 4 x 4)"
        raise InputError(msg)
    return _made(_with_channel(image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else image), affine)


def _with_channel(array: np.ndarray) -> np.ndarray:
    return array[None] if array.ndim == 3 else array


def _of_nibabel(image: Any) -> MetaTensor:
    voxels = np.asanyarray(image.dataobj, dtype=np.float32)
    voxels = np.moveaxis(voxels.reshape(*voxels.shape[:3], -1), -1, 0)  # axes of length 1 may lie before the channels
    header = image.header
    if not isinstance(header, nib.Nifti1Header):
        return _made(voxels, image.affine)
    unit = millimetres_a_unit(header)
    affine = np.diag([unit, unit, unit, 1.0]) @ np.asarray(image.affine, dtype=np.float64)
    place = {FORMS_KEY: forms_as_text(header, affine), ORIENTATION_KEY: orientation_of(header)}
    return _made(voxels, affine, place)


def _of_simple_itk(image: Any) -> MetaTensor:
    import SimpleITK

    voxels = SimpleITK.GetArrayFromImage(image)  # [D, W, H] or [D, W, H, C]
    voxels = voxels[..., None] if image.GetNumberOfComponentsPerPixel() == 1 else voxels
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return _made(voxels.transpose(3, 2, 1, 0), _TO_RAS @ affine)


def _made(voxels: np.ndarray, affine: Any, place: Mapping[str, str] | None = None) -> MetaTensor:
    """Returns what a reader of files gives, from voxels `[C, H, W, D]`."""
    matrix = np.asarray(affine, dtype=np.float64)
    if voxels.ndim != 4 or matrix.shape != (4, 4):
        msg = f"image: shape {voxels.shape} with affine {matrix.shape}; expected (C, H, W, D) and (4, 4)"
        raise InputError(msg)
    if not np.isfinite(matrix).all() or np.linalg.matrix_rank(matrix) < 4:
        msg = f"affine: {matrix.tolist()} is singular or not finite; give that of the image"
        raise InputError(msg)
    meta = {
        MetaKeys.AFFINE: matrix,
        MetaKeys.ORIGINAL_AFFINE: matrix.copy(),
        MetaKeys.SPATIAL_SHAPE: np.array(voxels.shape[1:]),
        MetaKeys.SPACE: SpaceKeys.RAS,
        MetaKeys.ORIGINAL_CHANNEL_DIM: 0,
        ORIENTATION_KEY: "given",
        **(place or {}),
    }
    return MetaTensor.ensure_torch_and_prune_meta(np.ascontiguousarray(voxels, dtype=np.float32), meta)


def _stacked(volumes: Sequence[MetaTensor], modalities: Sequence[str]) -> MetaTensor:
    counts = [len(volume) for volume in volumes]
    if counts != [1] * len(modalities):
        found = f"{len(volumes)} images of {', '.join(map(str, counts))} channels" if volumes else "no image"
        msg = f"image: {found}; expected one of one channel for each of {', '.join(modalities)}"
        raise InputError(msg)
    first = volumes[0]
    for name, volume in zip(modalities, volumes, strict=True):
        if volume.shape != first.shape or float((volume.affine - first.affine).abs().max()) > AFFINE_TOLERANCE:
            msg = f"image: {name} lies on another grid than {modalities[0]}; resample it, or give the right image"
            raise InputError(msg)
    return MetaTensor(torch.cat([volume.as_tensor() for volume in volumes]), meta=first.meta)

"""Averages over mirrored images and over several trained networks, with their spread as a measure of doubt."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.utils import convert_to_dst_type, ensure_tuple
from torch import nn

from custom_nets.datasets.splits import fold_folders
from custom_nets.errors import InputError
from custom_nets.inferers.arguments import check_image, shown
from custom_nets.inferers.moments import Moments
from custom_nets.inferers.occupancy import OccupancyInferer
from custom_nets.inferers.occupancy_ensemble import OccupancyEnsemble
from custom_nets.io.weights import load_weights
from custom_nets.networks.base import check_occupancy_network

_ADVICE = "the networks of an ensemble are all built alike: leave this file out, or train it with the same keys"


class EnsembleInferer(Inferer):
    """Mean probabilities over mirrored images and over networks; any inferer that returns probabilities does the rest.

    Members are all pairs of a network and a subset of the mirrored axes: with three axes eight for each network. A
    member sees the mirrored image, with its meta data as they are, and its result is mirrored back. Members run one
    after the other and are summed up as they come, so that memory is that of one member, two or three results, and the
    networks.

    An `OccupancyInferer` searches the surfaces of the mean once, see `OccupancyEnsemble`; it queries all members at
    the same points. There the spread is 0 at voxels that were not queried: all of them are away from any surface.

    Args:
        inferer: called as `inferer(image [B, C, H, W, D], network)`, returns probabilities `[B, R, H', W', D']`.
        mirror_axes: axes to mirror, of 0 (H), 1 (W) and 2 (D); None or empty: none.
        checkpoints: files of weights, one a network; see `weights.read_state_dict`. They are read at the first call
            into copies of the network that are kept where it is. None or empty: the network as it is at every call.
        spread: whether the standard deviation over the members (that of the population: divided by their number) is
            appended as R further channels.

    Raises:
        InputError: when an axis is unknown or named twice, a checkpoint is no file, the inferer is none, or the spread
            is wanted of a search with a threshold below one half.
    """

    def __init__(
        self,
        inferer: Callable[..., Any],
        mirror_axes: Sequence[int] | int | None = (),
        checkpoints: Sequence[str | Path] | str | Path | None = (),
        spread: bool = False,
    ) -> None:
        super().__init__()
        self.inferer = _checked_inferer(inferer, spread)
        self.mirror_axes = _checked_axes(() if mirror_axes is None else ensure_tuple(mirror_axes))
        self.checkpoints = () if checkpoints is None else ensure_tuple(checkpoints)
        for path in self.checkpoints:
            if not isinstance(path, str | Path) or not Path(path).is_file():
                msg = f"ensemble: {path}: there is no such file; give files of weights, such as model.pt"
                raise InputError(msg)
        self.spread = spread
        self._copies: list[nn.Module] = []
        self._copied: tuple[nn.Module, torch.device] | None = None

    @torch.no_grad()
    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Infers the mean probabilities.

        Args:
            inputs: image `[B, C, H, W, D]`.
            network: given to the inferer, or (a module) copied for the checkpoints; it is not changed itself.
            args: passed on to the inferer.
            kwargs: passed on to the inferer.

        Returns:
            `[B, R, H', W', D']`, or `[B, 2R, H', W', D']` with the spread; a single member's result as it is.

        Raises:
            InputError: when the image has no three axes of space, a checkpoint cannot be read or does not fit, or the
                inferer returns no probabilities.
        """
        check_image(inputs)
        members, mirrors = self._members(network), list(_subsets(self.mirror_axes))
        if isinstance(self.inferer, OccupancyInferer):
            if len(members) * len(mirrors) == 1 and not self.spread:
                return self.inferer(inputs, members[0], *args, **kwargs)
            networks = [check_occupancy_network(member, "OccupancyInferer") for member in members]
            return self.inferer(inputs, OccupancyEnsemble(networks, mirrors, self.spread), *args, **kwargs)
        total = Moments(self.spread)
        first: Any = None
        for member in members:
            for axes in mirrors:
                dims = [axis + 2 for axis in axes]
                result = _checked(self.inferer(inputs.flip(dims) if dims else inputs, member, *args, **kwargs))
                first = result if first is None else first
                values = result.as_tensor() if isinstance(result, MetaTensor) else result
                total.add(values.flip(dims) if dims else values)
        if total.count == 1 and not self.spread:
            return first
        return convert_to_dst_type(total.result(), first, dtype=total.mean.dtype)[0]

    def _members(self, network: Any) -> Sequence[Any]:
        if not self.checkpoints:
            return [network]
        device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
        if self._copied is None or self._copied[0] is not network or self._copied[1] != device:
            wrapped = isinstance(network, (nn.parallel.DistributedDataParallel, nn.DataParallel))
            self._copies = [_loaded(network.module if wrapped else network, path) for path in self.checkpoints]
            self._copied = (network, device)
        return self._copies


def models_of_folds(folder: str | Path, wanted: bool = True, section: str | None = None) -> list[str]:
    """Returns the models of a cross-validation, those of `fold_*/model.pt`, as the checkpoints of an ensemble.

    Args:
        folder: of the folds' folders.
        wanted: whether there is an ensemble of the folds; else nothing is returned.
        section: of the split, whose cases are inferred; None: others than those of the training.

    Raises:
        InputError: when there are less than two models, or some of them were trained on the cases of the section.
    """
    if not wanted:
        return []
    if section not in (None, "test"):
        msg = (
            f"ensemble_folds: the cases of section '{section}' are training cases of some folds; give cases that no "
            "fold has seen: --evaluation_section test, after a training with --test"
        )
        raise InputError(msg)
    models = [fold / "model.pt" for fold in fold_folders(folder) if (fold / "model.pt").is_file()]
    if len(models) < 2:
        msg = f"{folder}: holds {len(models)} models of folds (fold_*/model.pt); train two at least (--fold 0, 1, ...)"
        raise InputError(msg)
    return [str(model) for model in models]


def _loaded(network: nn.Module, path: str | Path) -> nn.Module:
    member = copy.deepcopy(network).eval().requires_grad_(False)
    load_weights(member, path, _ADVICE)
    return member


def _subsets(axes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    for count in range(len(axes) + 1):
        yield from combinations(axes, count)


def _checked(result: Any) -> Any:
    if not isinstance(result, torch.Tensor) or result.ndim != 5:
        found = f"a tensor {list(result.shape)}" if isinstance(result, torch.Tensor) else f"a {type(result).__name__}"
        msg = f"inferer: gave {found}; expected probabilities [B, R, H, W, D], as a VolumeInferer returns them"
        raise InputError(msg)
    return result


def _checked_inferer(inferer: Any, spread: bool) -> Any:
    if isinstance(inferer, nn.Module) or not callable(inferer):
        msg = f"inferer is {shown(inferer)}; expected one such as VolumeInferer(...); give the network in the call"
        raise InputError(msg)
    if spread and isinstance(inferer, OccupancyInferer) and inferer.search.threshold < 0.5:
        msg = f"threshold is {inferer.search.threshold}; expected at least 0.5 where the spread is wanted"
        raise InputError(msg)
    return inferer


def _checked_axes(axes: Sequence[int]) -> tuple[int, ...]:
    if any(axis not in (0, 1, 2) for axis in axes) or len(set(axes)) != len(axes):
        msg = f"mirror_axes is {shown(list(axes))}; expected some of 0 (H), 1 (W) and 2 (D), each at most once"
        raise InputError(msg)
    return tuple(int(axis) for axis in axes)

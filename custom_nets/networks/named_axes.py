"""Weights that belong to single channels or regions, so that a network can be trained on with others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from torch import Tensor, nn


class NamedAxis(NamedTuple):
    """The axis of a tensor whose entries belong to the channels of the image, or to the regions of the output.

    Along it lie `before` entries that belong to none, then `views` times `run` entries for each channel (or region) in
    their order, then `after` entries that belong to none.

    Attributes:
        of: channels or regions.
        axis: of the tensor.
        reads: whether these are inputs: those of a new channel start at 0, so that the network answers as it did.
            Others are what the network makes, and those of a new one keep their random numbers.
        before, views, run, after: see above.
    """

    of: Literal["channels", "regions"]
    axis: int
    reads: bool = False
    before: int = 0
    views: int = 1
    run: int = 1
    after: int = 0

    def length(self, count: int) -> int:
        """Returns the entries along the axis for so many channels or regions."""
        return self.before + self.views * count * self.run + self.after

    def start(self, view: int, number: int, count: int) -> int:
        """Returns the first entry of a channel or region in a view."""
        return self.before + (view * count + number) * self.run


Names = Mapping[str, Sequence[str]]
"""Names of the `channels` and `regions` of a network."""


def map_weights(
    network: nn.Module, state: Mapping[str, Tensor], old: Names, new: Names
) -> tuple[dict[str, Tensor], list[str]]:
    """Fits weights to a network of other channels or regions: what belongs to one of them moves to where its name is.

    Args:
        network: with the channels and regions of `new`, and the initial values of what is new. Its `named_axes` gives
            the `NamedAxis` of tensors by their names, None for those in which channels are mixed.
        state: weights of such a network with the channels and regions of `old`.
        old: of the weights.
        new: of the network.

    Returns:
        Weights for the network, and the names of the tensors that start anew. A tensor whose other sides differ stays
        as it is, for whoever loads it to refuse.
    """
    own = {name: tensor for name, tensor in network.state_dict().items() if isinstance(tensor, Tensor)}
    axes: Mapping[str, NamedAxis | None] = getattr(network, "named_axes", dict)()
    mapped, anew = dict(state), []
    for name in (name for name in axes if name in state and name in own):
        named = axes[name]
        if named is None and list(old["channels"]) == list(new["channels"]):
            continue
        if named is None:
            mapped[name] = own[name].clone()
            anew.append(name)
        elif state[name].shape == _with_length(own[name], named, len(old[named.of])):
            mapped[name] = _moved(own[name], state[name], named, old[named.of], new[named.of])
    return mapped, anew


def _with_length(tensor: Tensor, named: NamedAxis, count: int) -> tuple[int, ...]:
    """The shape of a tensor for another number of channels or regions."""
    return (*tensor.shape[: named.axis], named.length(count), *tensor.shape[named.axis + 1 :])


def _moved(own: Tensor, state: Tensor, named: NamedAxis, old: Sequence[str], new: Sequence[str]) -> Tensor:
    result = own.clone()
    axis = named.axis
    for start, source, length in (
        (0, 0, named.before),
        (named.length(len(new)) - named.after, named.length(len(old)) - named.after, named.after),
    ):
        result.narrow(axis, start, length).copy_(state.narrow(axis, source, length))
    for view in range(named.views):
        for number, name in enumerate(new):
            target = result.narrow(axis, named.start(view, number, len(new)), named.run)
            if name in old:
                source = named.start(view, list(old).index(name), len(old))
                target.copy_(state.narrow(axis, source, named.run))
            elif named.reads:
                target.zero_()
    return result

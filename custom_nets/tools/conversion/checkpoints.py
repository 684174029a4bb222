"""Converting a file of published weights to a model of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from custom_nets.errors import InputError
from custom_nets.io.files import atomic_file
from custom_nets.io.weights import read_state_dict

Network = TypeVar("Network", bound=nn.Module)


def convert_checkpoint(
    source: str | Path, target: str | Path, convert: Callable[[Mapping[str, Tensor]], Network]
) -> Network:
    """Reads published weights, and writes the state dict of the network that they become, whole or not at all.

    Args:
        source: file of a plain state dict.
        target: file to write.
        convert: makes our network of the published state dict.

    Returns:
        The network.

    Raises:
        InputError: naming the file, when it cannot be read or `convert` refuses what it holds.
    """
    state = read_state_dict(source)
    try:
        net = convert(state)
    except InputError as error:
        msg = f"{source}: {error}"
        raise InputError(msg) from error
    with atomic_file(target) as file:
        torch.save(net.state_dict(), file)
    return net

"""Bias and Padé activation in one pass over memory, in place, for inference."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from custom_nets.networks.pade import _has_compiler, pade

logger = logging.getLogger(__name__)

# Below this number of elements a compiled kernel gains less than its guards cost.
_COMPILE_FROM = 1 << 15


def biased_pade_(x: Tensor, bias: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
    """Replaces `x` by the Padé function of `x + bias`, computed in float32 whatever the dtype of `x`.

    Args:
        x: contiguous features `[N, F]`, overwritten.
        bias: float32 `[F]`.
        numerator: float32 `[6]`, see `PadeActivation`.
        denominator: float32 `[4]`.

    Returns:
        `x`.
    """
    return _kernel(x.device.type)(x, bias, numerator, denominator)


def _plain(x: Tensor, bias: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
    return x.copy_(pade(x.float() + bias, numerator, denominator))


def _in_blocks(x: Tensor, bias: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
    """The plain form; on a CPU in blocks whose intermediate values stay in the cache."""
    for rows in x.split(max(1, _COMPILE_FROM // x.shape[1]) if x.is_cpu else len(x)):
        _plain(rows, bias, numerator, denominator)
    return x


@cache
def _kernel(device_type: str) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    if not _has_compiler(device_type):
        return _in_blocks
    compiled = torch.compile(_plain, dynamic=True)
    works = True

    def run(x: Tensor, bias: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
        nonlocal works
        if works and x.numel() >= _COMPILE_FROM:
            try:
                return compiled(x, bias, numerator, denominator)
            except Exception as error:
                works = False
                reason = str(error).strip().splitlines()[:1]
                logger.warning("The Padé activation could not be compiled and runs in its slower form: %s", reason)
        return _in_blocks(x, bias, numerator, denominator)

    return run

"""Bias and Padé activation in one pass over memory, in place, for inference."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from importlib import import_module

import torch
from torch import Tensor

from custom_nets.networks.pade.activation import has_kernels, pade, ran_out_of_memory

logger = logging.getLogger(__name__)

_Kernel = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

# Below this number of elements a compiled kernel gains less than its guards cost.
_COMPILE_FROM = 1 << 15


def biased_pade_(x: Tensor, bias: Tensor, numerator: Tensor, denominator: Tensor, compiled: bool = True) -> Tensor:
    """Replaces `x` by the Padé function of `x + bias`, computed in float32 whatever the dtype of `x`.

    On a GPU a Triton kernel, on a CPU a compiled one; where there is neither Triton nor a compiler, or it fails, plain
    operations.

    Args:
        x: contiguous features `[N, F]`, overwritten.
        bias: float32 `[F]`. None of the three parameters may be a view, for which a compiler would make a new kernel.
        numerator: float32 `[6]`, see `PadeActivation`.
        denominator: float32 `[4]`.
        compiled: whether to run such a kernel; false runs plain operations.

    Returns:
        `x`.
    """
    return _kernel(x.device.type, compiled)(x, bias, numerator, denominator)


@cache
def _kernel(device_type: str, compiled: bool) -> _Kernel:
    if not (compiled and has_kernels(device_type)):
        return _plain_in_blocks
    if device_type == "cuda":
        return _with_fallback(import_module("custom_nets.networks.pade.triton").biased_pade_, at_least=1)
    return _with_fallback(torch.compile(_plain, dynamic=True), _COMPILE_FROM)


def _with_fallback(kernel: _Kernel, at_least: int) -> _Kernel:
    """The kernel for tensors of `at_least` so many elements; never again once it has failed."""
    works = True

    def run(x: Tensor, bias: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
        nonlocal works
        if works and x.numel() >= at_least:
            try:
                return kernel(x, bias, numerator, denominator)
            except Exception as error:
                if ran_out_of_memory(error):
                    raise
                works = False
                reason = str(error).strip().splitlines()[:1]
                logger.warning("The Padé activation could not be compiled and runs in its slower form: %s", reason)
        return _plain_in_blocks(x, bias, numerator, denominator)

    return run


def _plain(x: Tensor, bias: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
    return x.copy_(pade(x.float() + bias, numerator, denominator))


def _plain_in_blocks(x: Tensor, bias: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
    """The plain form; on a CPU in blocks whose intermediate values stay in the cache."""
    for rows in x.split(max(1, _COMPILE_FROM // x.shape[1]) if x.is_cpu else max(len(x), 1)):
        _plain(rows, bias, numerator, denominator)
    return x

"""Padé activation: a learnable rational function in place of a fixed non-linearity."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec

import torch
from monai.networks.layers.factories import Act
from torch import Tensor, nn

__all__ = ["LEAKY_RELU_DENOMINATOR", "LEAKY_RELU_NUMERATOR", "PadeActivation"]

logger = logging.getLogger(__name__)

# The fit of a leaky ReLU for about |x| <= 3 that every instance of the published OSS-Net starts from.
LEAKY_RELU_NUMERATOR = (3.35583603e-02, 5.05000375e-01, 1.65343934e00, 2.01001052e00, 9.31901999e-01, 1.52424124e-01)
LEAKY_RELU_DENOMINATOR = (3.30847488e-06, 3.98021568e00, 5.12471206e-07, 3.01830109e-01)

# Below this number of elements the compiled kernel gains less than its compilation costs.
_COMPILE_FROM = 1 << 17

# The eager form works in blocks whose intermediate values stay in a CPU's cache (three times faster than in one go).
_EAGER_BLOCK = 1 << 15


def _absolute(x: Tensor) -> Tensor:
    """|x| whose slope at zero is +1 (autograd has 0 there), as in the published activation."""
    if not torch.is_grad_enabled():
        return x.abs()  # ONNX has no copysign
    return x * torch.copysign(torch.ones_like(x), x)


def pade(x: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
    """Evaluates the function by Horner's scheme; plain operations, open to TorchScript and to any compiler."""
    n, d = numerator, _absolute(denominator)
    a = _absolute(x)
    top = n[0] + x * (n[1] + x * (n[2] + x * (n[3] + x * (n[4] + x * n[5]))))
    return top / (1.0 + a * (d[0] + a * (d[1] + a * (d[2] + a * d[3]))))


def _pade_forward(x: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
    """The function in float32 at least, returned in the dtype of x; compiled, no float32 copy of a tensor is made."""
    return pade(_at_least_float32(x), numerator, denominator).to(x.dtype)


def _pade_backward(grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for x (in its dtype), numerator and denominator, with everything recomputed from x.

    The sign of zero counts as plus (`copysign`), as in the published activation. Dividing by the denominator
    twice, instead of once by its square, keeps every intermediate value within float32 for |x| <= 1e4.
    Compiled, this is one pass: x and grad are read, grad_x is written, and the sums over all elements are reductions
    of partial sums (no atomic additions to ten addresses, for which a GPU would queue).
    """
    dtype = x.dtype
    grad, x = _at_least_float32(grad), _at_least_float32(x)
    n, d = numerator, denominator.abs()
    a, sign = x.abs(), torch.copysign(torch.ones_like(x), x)
    top = n[0] + x * (n[1] + x * (n[2] + x * (n[3] + x * (n[4] + x * n[5]))))
    bottom = 1.0 + a * (d[0] + a * (d[1] + a * (d[2] + a * d[3])))
    top_slope = n[1] + x * (2.0 * n[2] + x * (3.0 * n[3] + x * (4.0 * n[4] + x * (5.0 * n[5]))))
    bottom_slope = sign * (d[0] + a * (2.0 * d[1] + a * (3.0 * d[2] + a * (4.0 * d[3]))))
    scaled = grad / bottom
    y = top / bottom
    grad_x = scaled * (top_slope - y * bottom_slope)
    s1 = scaled * x
    s2 = s1 * x
    s3 = s2 * x
    s4 = s3 * x
    grad_n = torch.stack([scaled.sum(), s1.sum(), s2.sum(), s3.sum(), s4.sum(), (s4 * x).sum()])
    t1 = -scaled * y * a
    t2 = t1 * a
    t3 = t2 * a
    grad_d = torch.stack([t1.sum(), t2.sum(), t3.sum(), (t3 * a).sum()])
    return grad_x.to(dtype), grad_n, grad_d * torch.copysign(torch.ones_like(denominator), denominator)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype == torch.float16 or x.dtype == torch.bfloat16 else x


def _eager_forward(x: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
    blocks = _blocks(x)
    return torch.cat([_pade_forward(block, numerator, denominator) for block in blocks]).view(x.shape)


def _eager_backward(grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    pairs = zip(_blocks(grad), _blocks(x), strict=True)
    grad_x, grad_n, grad_d = zip(*(_pade_backward(g, b, numerator, denominator) for g, b in pairs), strict=True)
    return torch.cat(grad_x).view(x.shape), torch.stack(grad_n).sum(0), torch.stack(grad_d).sum(0)


def _blocks(x: Tensor) -> tuple[Tensor, ...]:
    flat = x.reshape(-1)
    return flat.split(_EAGER_BLOCK if x.device.type == "cpu" else max(x.numel(), 1))


class _Kernels:
    """Forward and backward: Triton's on a GPU, compiled ones on a CPU, and the eager form where neither can be had.

    What fails (no compiler, no Triton, an unwritable cache) is reported once and never tried again.
    """

    def __init__(self, device_type: str, compiled: bool) -> None:
        self.works = compiled and has_kernels(device_type)
        self._forward, self._backward, self._least = _eager_forward, _eager_backward, 1
        if not self.works:  # then PyTorch's compiler is not even imported
            return
        if device_type == "cuda":
            triton_pade = import_module("custom_nets.networks.pade.triton")
            self._forward, self._backward = triton_pade.pade_forward, triton_pade.pade_backward
        else:
            # Sizes differ from layer to layer and from chunk to chunk: one dynamic kernel serves all.
            self._forward = torch.compile(_pade_forward, dynamic=True)
            self._backward = torch.compile(_pade_backward, dynamic=True)
            self._least = _COMPILE_FROM

    def forward(self, x: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
        return self._run(self._forward, _eager_forward, x, numerator, denominator)

    def backward(self, *tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self._run(self._backward, _eager_backward, *tensors)

    def _run(self, kernel: Callable, eager: Callable, *tensors: Tensor):  # type: ignore[no-untyped-def]
        if not self.works or tensors[0].numel() < self._least:
            return eager(*tensors)
        try:
            # One dimension, so that tensors of every rank share a kernel.
            results = kernel(*(t.reshape(-1) if t.shape == tensors[0].shape else t for t in tensors))
        except Exception as error:
            if ran_out_of_memory(error):  # the caller may go on with less; the eager form would need more
                raise
            self.works = False
            reason = str(error).strip().splitlines()[:1]
            logger.warning("The Padé activation could not be compiled and runs in its slower eager form: %s", reason)
            return eager(*tensors)
        if isinstance(results, Tensor):
            return results.view(tensors[0].shape)
        return results[0].view(tensors[0].shape), *results[1:]


def ran_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory does not suffice, on a GPU or on a CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)


def has_kernels(device_type: str) -> bool:
    """Whether kernels can be made for a device: with a C++ compiler on a CPU, with Triton on a GPU."""
    if device_type == "cpu":
        return any(shutil.which(name) for name in ("g++", "c++", "clang++", "cl"))
    return device_type == "cuda" and find_spec("triton") is not None


@cache
def _kernels(device_type: str, compiled: bool) -> _Kernels:
    return _Kernels(device_type, compiled)


class _Pade(torch.autograd.Function):
    """Saves x alone for the backward pass (autograd would keep some fifteen tensors of its size)."""

    @staticmethod
    def forward(ctx, x: Tensor, numerator: Tensor, denominator: Tensor, compiled: bool) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, numerator, denominator)
        ctx.compiled = compiled
        return _kernels(x.device.type, compiled).forward(x, numerator, denominator)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:  # type: ignore[no-untyped-def]
        x, numerator, denominator = ctx.saved_tensors
        return *_kernels(x.device.type, ctx.compiled).backward(grad, x, numerator, denominator), None


class PadeActivation(nn.Module):
    r"""Safe Padé activation unit of order (5, 4), applied element by element.

    .. math:: f(x) = \frac{\sum_{i=0}^{5} n_i x^i}{1 + \sum_{j=1}^{4} |d_{j-1}| |x|^j}

    Source: Molina et al., "Padé Activation Units", ICLR 2020 (version A); used throughout OSS-Net (Reich et al., BMVC
    2021). The coefficients start from the fit of a leaky ReLU and are shared by all elements of the input.

    Half-precision inputs are computed in float32 inside and returned in their own dtype. For the backward pass x alone
    is kept, one tensor an activation, and all else is computed from it again: some thirty operations an element, which
    cost less than reading any second tensor back would. Where a compiler is present
    the kernels are compiled at the first large input, elsewhere the eager form gives the same numbers. The second
    derivative is not implemented.

    Shapes: any, returned unchanged.

    Args:
        compiled: whether to run compiled kernels (PyTorch keeps those of a CPU on the disk from run to run); false runs
            the eager form.
    """

    def __init__(self, compiled: bool = True) -> None:
        super().__init__()
        self.compiled = compiled
        self.numerator = nn.Parameter(torch.tensor(LEAKY_RELU_NUMERATOR))
        self.denominator = nn.Parameter(torch.tensor(LEAKY_RELU_DENOMINATOR))

    def forward(self, x: Tensor) -> Tensor:
        """Applies the activation."""
        if not torch.jit.is_scripting():  # noqa: SIM102 (TorchScript leaves out the branch of just this condition)
            # An outer compiler or tracer takes the plain form into its own graph.
            if not torch.compiler.is_compiling() and not torch.jit.is_tracing():
                return _Pade.apply(x, self.numerator, self.denominator, self.compiled)
        return _pade_forward(x, self.numerator, self.denominator)


# Any MONAI network then takes it by name: `act="pade"`.
Act.add_factory_class("pade", PadeActivation, desc=PadeActivation.__doc__)

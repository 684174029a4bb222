"""Padé kernels for GPUs: each one launch and one pass over memory. Imported only where Triton is.

Measured beside what a compiler makes of the same formulas in `benchmarks/pade.py`.
"""
# Triton's language knows neither type hints nor the names that a linter expects of constants.
# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: N803

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024
_BLOCKS_A_PROGRAM = 16  # of the backward pass: fewer partial sums, enough programs to fill a GPU


@triton.jit
def _pade(x, n_ptr, d_ptr):
    """Numerator and denominator by Horner's scheme."""
    a = tl.abs(x)
    top = tl.load(n_ptr + 4) + x * tl.load(n_ptr + 5)
    for i in tl.static_range(4):
        top = tl.load(n_ptr + 3 - i) + x * top
    bottom = tl.abs(tl.load(d_ptr + 2)) + a * tl.abs(tl.load(d_ptr + 3))
    for i in tl.static_range(2):
        bottom = tl.abs(tl.load(d_ptr + 1 - i)) + a * bottom
    return top, 1.0 + a * bottom


@triton.jit
def _forward(x_ptr, y_ptr, n_ptr, d_ptr, count, BLOCK: tl.constexpr):
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = index < count
    top, bottom = _pade(tl.load(x_ptr + index, mask=mask, other=0.0).to(tl.float32), n_ptr, d_ptr)
    tl.store(y_ptr + index, (top / bottom).to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _biased_forward(x_ptr, bias_ptr, n_ptr, d_ptr, count, features, BLOCK: tl.constexpr):
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = index < count
    x = tl.load(x_ptr + index, mask=mask, other=0.0).to(tl.float32)
    top, bottom = _pade(x + tl.load(bias_ptr + index % features, mask=mask, other=0.0), n_ptr, d_ptr)
    tl.store(x_ptr + index, (top / bottom).to(x_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _backward(grad_ptr, x_ptr, out_ptr, sums_ptr, n_ptr, d_ptr, count, BLOCK: tl.constexpr, BLOCKS: tl.constexpr):
    # Ten running sums an element of a block; each program writes its own ten, so that no two wait for each other.
    n0 = tl.zeros([BLOCK], dtype=tl.float32)
    n1, n2, n3, n4, n5 = n0, n0, n0, n0, n0
    e1, e2, e3, e4 = n0, n0, n0, n0
    first = tl.program_id(0).to(tl.int64) * (BLOCK * BLOCKS)
    for block in range(BLOCKS):
        index = first + block * BLOCK + tl.arange(0, BLOCK)
        mask = index < count
        x = tl.load(x_ptr + index, mask=mask, other=0.0).to(tl.float32)
        grad = tl.load(grad_ptr + index, mask=mask, other=0.0).to(tl.float32)
        a = tl.abs(x)
        # The sign of zero counts: copysign, as in the formula in pade.py.
        sign = tl.where((x.to(tl.int32, bitcast=True) < 0), -1.0, 1.0)
        top, bottom = _pade(x, n_ptr, d_ptr)
        top_slope = 4.0 * tl.load(n_ptr + 4) + x * (5.0 * tl.load(n_ptr + 5))
        for i in tl.static_range(3):
            top_slope = (3.0 - i) * tl.load(n_ptr + 3 - i) + x * top_slope
        bottom_slope = 3.0 * tl.abs(tl.load(d_ptr + 2)) + a * (4.0 * tl.abs(tl.load(d_ptr + 3)))
        for i in tl.static_range(2):
            bottom_slope = (2.0 - i) * tl.abs(tl.load(d_ptr + 1 - i)) + a * bottom_slope
        scaled = grad / bottom
        y = top / bottom
        result = scaled * (top_slope - y * (sign * bottom_slope))
        tl.store(out_ptr + index, result.to(out_ptr.dtype.element_ty), mask=mask)
        s1 = scaled * x
        s2 = s1 * x
        s3 = s2 * x
        s4 = s3 * x
        n0 += scaled
        n1 += s1
        n2 += s2
        n3 += s3
        n4 += s4
        n5 += s4 * x
        t1 = -scaled * y * a
        t2 = t1 * a
        t3 = t2 * a
        e1 += t1
        e2 += t2
        e3 += t3
        e4 += t3 * a
    out = sums_ptr + tl.program_id(0) * 10
    tl.store(out + 0, tl.sum(n0, axis=0))
    tl.store(out + 1, tl.sum(n1, axis=0))
    tl.store(out + 2, tl.sum(n2, axis=0))
    tl.store(out + 3, tl.sum(n3, axis=0))
    tl.store(out + 4, tl.sum(n4, axis=0))
    tl.store(out + 5, tl.sum(n5, axis=0))
    tl.store(out + 6, tl.sum(e1, axis=0))
    tl.store(out + 7, tl.sum(e2, axis=0))
    tl.store(out + 8, tl.sum(e3, axis=0))
    tl.store(out + 9, tl.sum(e4, axis=0))


def pade_forward(x: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
    """The function of `x` (contiguous, any shape), computed in float32, in the dtype of `x`."""
    y = torch.empty_like(x)
    if x.numel():
        with torch.cuda.device(x.device):
            _forward[(triton.cdiv(x.numel(), _BLOCK),)](x, y, numerator, denominator, x.numel(), BLOCK=_BLOCK)
    return y


def pade_backward(grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for `x` (in its dtype), numerator and denominator; `grad` and `x` contiguous."""
    out = torch.empty_like(x)
    programs = max(triton.cdiv(x.numel(), _BLOCK * _BLOCKS_A_PROGRAM), 1)
    sums = torch.zeros(programs, 10, dtype=torch.float32, device=x.device)
    if x.numel():
        with torch.cuda.device(x.device):
            _backward[(programs,)](
                grad, x, out, sums, numerator, denominator, x.numel(), BLOCK=_BLOCK, BLOCKS=_BLOCKS_A_PROGRAM
            )
    total = sums.sum(dim=0, dtype=torch.float64).to(numerator.dtype)
    signs = torch.copysign(torch.ones_like(denominator), denominator)
    return out, total[:6], total[6:] * signs


def biased_pade_(x: Tensor, bias: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
    """Replaces `x` `[N, F]` by the function of `x + bias`, see `fused_pade.biased_pade_`."""
    if x.numel():
        with torch.cuda.device(x.device):
            _biased_forward[(triton.cdiv(x.numel(), _BLOCK),)](
                x, bias, numerator, denominator, x.numel(), x.shape[1], BLOCK=_BLOCK
            )
    return x

"""The kernel of `fused_pade` for GPUs. Imported only where Triton is."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_BLOCK = 1024


@triton.jit
def _biased_pade(x_ptr, bias_ptr, n_ptr, d_ptr, count, features, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def] # noqa: N803
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = index < count
    x = tl.load(x_ptr + index, mask=mask).to(tl.float32) + tl.load(bias_ptr + index % features, mask=mask)
    a = tl.abs(x)
    top = tl.load(n_ptr + 5)
    for i in tl.static_range(5):
        top = top * x + tl.load(n_ptr + 4 - i)
    bottom = tl.abs(tl.load(d_ptr + 3))
    for i in tl.static_range(3):
        bottom = bottom * a + tl.abs(tl.load(d_ptr + 2 - i))
    tl.store(x_ptr + index, (top / (1.0 + a * bottom)).to(x_ptr.dtype.element_ty), mask=mask)


def biased_pade_(
    x: torch.Tensor, bias: torch.Tensor, numerator: torch.Tensor, denominator: torch.Tensor
) -> torch.Tensor:
    """See `fused_pade.biased_pade_`; one launch, one read and one write of `x`."""
    count = x.numel()
    with torch.cuda.device(x.device):
        _biased_pade[(triton.cdiv(count, _BLOCK),)](x, bias, numerator, denominator, count, x.shape[1], BLOCK=_BLOCK)
    return x

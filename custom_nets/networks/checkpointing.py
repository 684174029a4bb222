"""Gradient checkpointing: memory for time."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def run_layer(layer: nn.Module, x: Tensor, checkpointing: bool) -> Tensor:
    """Calls a layer; with `checkpointing` its activations are forgotten, and computed anew in the backward pass."""
    if checkpointing and torch.is_grad_enabled():
        return checkpoint(layer, x, use_reentrant=False)
    return layer(x)

"""Parameter groups with and without weight decay."""

from __future__ import annotations

from typing import Any

from torch import nn

KERNEL_AXES = 3
"""A convolution's kernel has at least so many axes `[out, in, k, ...]`; dense layers, norms and biases have fewer."""


def kernel_decay(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Splits a network's parameters for an optimizer, so that weight decay acts on convolution kernels alone.

    Args:
        network: any network.
        weight_decay: of the kernels.

    Returns:
        Two parameter groups: the kernels with the weight decay, and all others with none.

    Source: Myronenko 2018, section 2.4 ("L2 norm regularization on the convolutional kernel parameters").
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= KERNEL_AXES], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < KERNEL_AXES], "weight_decay": 0.0},
    ]

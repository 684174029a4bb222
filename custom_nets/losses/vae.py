"""The loss of a network that segments an image and reconstructs it by a variational autoencoder."""

from __future__ import annotations

from math import prod

import torch
from monai.losses import DiceLoss
from torch import Tensor, nn

from custom_nets.networks.nvnet.network import NvNetOutput


def gaussian_kl(mean: Tensor, log_variance: Tensor, voxels: int) -> Tensor:
    """Divergence of Gaussians from the standard one, as the paper scales it: (1/N) sum(m^2 + s^2 - log s^2 - 1).

    Args:
        mean: `[B, L]`.
        log_variance: log s^2 `[B, L]`.
        voxels: N, the voxels of an image.

    Returns:
        The mean over the batch. Twice the Kullback-Leibler divergence in nats, over N.

    Source: Myronenko 2018, equation 4.
    """
    terms = mean.square() + log_variance.exp() - log_variance - 1
    return terms.sum(1).mean() / voxels


class NvNetLoss(nn.Module):
    """Soft Dice + 0.1 mean squared error of the reconstruction + 0.1 KL divergence.

    The Dice term is 1 - 2 sum(p t) / (sum p^2 + sum t^2 + 1e-5) over the voxels of each image and region, averaged. An
    image without a region thus teaches nothing about it; with crops much smaller than a brain, take the sums over the
    whole batch (`batch_dice`). An output without reconstruction (`vae=False`) has the Dice term alone. The weighted
    terms of the last call are in `terms`, for logs.

    Args:
        reconstruction_weight: of the mean squared error over voxels and modalities.
        kl_weight: of the divergence, see `gaussian_kl`.
        batch_dice: whether the sums of the Dice term run over all images of a batch.

    Shapes: `forward(NvNetOutput, (regions [B, R, H, W, D], image [B, C, H, W, D]))`, result a scalar.
    Source: Myronenko 2018, equations 1 to 4.
    """

    def __init__(self, reconstruction_weight: float = 0.1, kl_weight: float = 0.1, batch_dice: bool = False) -> None:
        super().__init__()
        self.reconstruction_weight = reconstruction_weight
        self.kl_weight = kl_weight
        self.dice = DiceLoss(sigmoid=True, squared_pred=True, smooth_nr=0.0, smooth_dr=1e-5, batch=batch_dice)
        self.terms: dict[str, Tensor] = {}

    def forward(self, output: NvNetOutput, targets: tuple[Tensor, Tensor]) -> Tensor:
        """Computes the loss."""
        regions, image = targets
        # Sums over millions of voxels are at home in float32, also under autocast.
        terms = {"dice": self.dice(output.logits.float(), regions.float())}
        if output.reconstruction is not None:
            assert output.mean is not None
            assert output.log_variance is not None
            error = nn.functional.mse_loss(output.reconstruction.float(), image.float())
            divergence = gaussian_kl(output.mean, output.log_variance, prod(image.shape[2:]))
            terms["reconstruction"] = self.reconstruction_weight * error
            terms["kl"] = self.kl_weight * divergence
        self.terms = {name: term.detach() for name, term in terms.items()}
        return torch.stack(list(terms.values())).sum()

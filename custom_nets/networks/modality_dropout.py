"""Training without some of the modalities, so that a network can do without them later."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from custom_nets.errors import InputError
from custom_nets.io.weights import read_state_dict

TRAINED_KEY = "modality_dropout.trained"
"""Entry of a network's state dict that tells whether the network can do without a modality."""


def accepts_missing_modalities(models: Iterable[str | Path]) -> bool:
    """Returns whether all models were trained with modality dropout, as each file says itself.

    Args:
        models: files such as model.pt; one that is not there counts as no (loading it tells).

    Raises:
        InputError: when a file is there and cannot be read.
    """
    states = [read_state_dict(path) if Path(path).is_file() else {} for path in models]
    return all(bool(state.get(TRAINED_KEY, False)) for state in states)


class ModalityDropout(nn.Module):
    """Sets whole modalities of a training image to 0, the value of the background after normalisation.

    At least one modality of each image stays. In evaluation the image is returned as it is. A state dict tells
    where the network was trained so (buffer `trained`): only then may it be asked about cases that lack a modality.

    Args:
        probability: of each modality to be absent, below 1; 0 for none.

    Shapes: image `[B, C, H, W, D]`, result likewise.

    Raises:
        InputError: for a probability outside 0 to 1.
    """

    trained: Tensor

    def __init__(self, probability: float = 0.0) -> None:
        super().__init__()
        if not 0 <= probability < 1:
            msg = f"modality_dropout must be at least 0 and below 1, got {probability}"
            raise InputError(msg)
        self.probability = probability
        self.register_buffer("trained", torch.tensor(probability > 0))

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Says nothing of a network that was trained with all modalities: published ones do not either."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not self.trained:
            del destination[f"{prefix}trained"]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Takes a model that does not tell for one that was trained with all modalities: older ones are."""
        state_dict.setdefault(f"{prefix}trained", torch.tensor(False))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, image: Tensor) -> Tensor:
        """Drops modalities."""
        if not self.training or not self.probability:
            return image
        draws = torch.rand(image.shape[:2], device=image.device)
        # The luckiest modality of an image stays, whatever was drawn for the others.
        kept = (draws >= self.probability) | (draws == draws.amax(1, keepdim=True))
        return image * kept.to(image.dtype)[(...,) + (None,) * (image.ndim - 2)]

"""The random states of a run, as a part of its checkpoints."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch


class RandomState:
    """The random states of Python, NumPy and PyTorch as a part of a checkpoint, so that a resumed run goes on alike.

    Of several processes the first alone saves and restores its states: shared, all would augment their cases alike.
    """

    def state_dict(self) -> dict[str, Any]:
        """Returns the states as tensors and numbers (a checkpoint is read with `weights_only=True`)."""
        name, keys, *rest = np.random.get_state()
        return {
            "python": random.getstate(),
            "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the states; those of GPUs only where their number is the same."""
        if idist.get_rank() > 0:
            return
        version, numbers, gauss = state["python"]
        random.setstate((version, tuple(numbers), gauss))
        name, keys, *rest = state["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
        torch.set_rng_state(state["torch"].cpu())
        if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])

"""The batches and random numbers of each epoch as a function of the seed and the epoch alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine
from monai.data.utils import set_rnd


class EpochStream:
    """Gives a trainer the same batches and random numbers in an epoch, whether or not the run went on from a file.

    Every epoch starts with a new pass over the loader and with random states drawn from the seed and the epoch's
    number, for any number of loader workers; what a validation draws has no effect. (MONAI seeds the transforms of a
    loader without workers once, ignite starts a new pass where the last one ended, and neither can be saved.)

    Args:
        seed: of the run; each process of a job adds its rank.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._epoch = 0
        self._skip = 0
        self._after_skip: Callable[[], None] = lambda: None
        self._loader: Any = None

    def start(self, engine: Engine, loader: Any, skip: int = 0, after_skip: Callable[[], None] | None = None) -> None:
        """Takes the place of a trainer's loader; for `Events.STARTED`.

        Args:
            engine: the trainer.
            loader: of its batches.
            skip: batches of the first epoch that were trained on before; they are loaded again and left out.
            after_skip: called when they are.
        """
        self._loader = loader
        self._skip = skip
        self._after_skip = after_skip or self._after_skip
        engine.state.dataloader = self

    def start_epoch(self, engine: Engine) -> None:
        """Seeds everything; for `Events.EPOCH_STARTED`."""
        first = self._epoch == 0
        self._epoch = engine.state.epoch
        everything, batches, transforms = np.random.SeedSequence(
            [self.seed + idist.get_rank(), self._epoch]
        ).generate_state(3, np.uint32)
        random.seed(int(everything))
        np.random.seed(int(everything))
        torch.manual_seed(int(everything))
        dataset = getattr(self._loader, "dataset", None)
        if dataset is not None:
            generator = torch.Generator().manual_seed(int(batches))
            self._loader.generator = generator
            if hasattr(self._loader.sampler, "generator"):
                self._loader.sampler.generator = generator
            set_rnd(dataset, int(transforms))
        if not first:  # ignite starts the first one itself, where it left off
            engine.set_data(self)

    def __iter__(self) -> Iterator[Any]:
        """Passes over the loader as often as an epoch needs."""
        while True:
            empty = True
            for batch in self._loader:
                empty = False
                if self._skip:
                    self._skip -= 1
                    if not self._skip:
                        self._after_skip()
                    continue
                yield batch
            if empty:
                return

"""Scores by region after a validation, and a JSON log of the training."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events

from custom_nets.io.files import atomic_file

logger = logging.getLogger(__name__)


class RegionScores:
    """Logs each region's mean of a metric after a validation, and leaves it in the engine's metrics.

    A metric `val_dice` with details `[cases, R]` gives `val_dice_WT` and so on, shown by TensorBoard and the JSON log.

    Args:
        metrics: names of the engine's metrics (saved with details).
        regions: name of each channel.
    """

    def __init__(self, metrics: Sequence[str], regions: Sequence[str]) -> None:
        self.metrics = tuple(metrics)
        self.regions = tuple(regions)

    def attach(self, engine: Engine) -> None:
        """Registers with an evaluator whose metrics are attached already."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Computes the means of the epoch."""
        for name in self.metrics:
            details = engine.state.metric_details[name]  # type: ignore[attr-defined]
            means = torch.as_tensor(details).float().mean(dim=0).tolist()
            by_region = dict(zip(self.regions, means, strict=True))
            engine.state.metrics.update({f"{name}_{region}": mean for region, mean in by_region.items()})
            shown = "  ".join(f"{region} {mean:.3f}" for region, mean in by_region.items())
            logger.info("%s: %s", name, shown)


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """Returns the entries of a `JsonLog`, one an epoch; none where there is no file. Damaged lines are passed over.

    Args:
        path: of the JSON-lines file.
    """
    entries = []
    for line in Path(path).read_text(encoding="utf-8").splitlines() if Path(path).is_file() else ():
        with suppress(ValueError, TypeError):  # of a run that was killed while it wrote
            entry = json.loads(line)
            if isinstance(entry["epoch"], int):
                entries.append(entry)
    return entries


class JsonLog:
    """Appends one JSON object a training epoch to a file: epoch, iteration, mean loss, learning rate, seconds, scores.

    A run that goes on replaces the entries of epochs that it makes again. Losses that are not finite are counted.

    Args:
        path: of the JSON-lines file.
        optimizer: whose first group's learning rate is logged.
        evaluator: whose metrics are logged in the epochs in which it ran; its handler must come before this one.
        loss: a loss whose last call left its terms in `terms` (such as `NvNetLoss`); their means are logged, each by
            itself, as `loss_<term>`.
    """

    def __init__(
        self,
        path: str | Path,
        optimizer: torch.optim.Optimizer,
        evaluator: Engine | None = None,
        loss: torch.nn.Module | None = None,
    ) -> None:
        self.path = Path(path)
        self.optimizer = optimizer
        self.evaluator = evaluator
        self.loss = loss
        self._losses: dict[str, list[float]] = {}
        self._started = 0.0
        self._validations = 0

    def attach(self, engine: Engine) -> None:
        """Registers with a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _start(self, _engine: Engine) -> None:
        self._losses = {}
        self._started = time.perf_counter()

    def _collect(self, engine: Engine) -> None:
        terms = {f"loss_{name}": float(term) for name, term in loss_terms(self.loss).items()}
        for name, value in {"loss": loss_of(engine.state.output), **terms}.items():
            if value is not None:
                self._losses.setdefault(name, []).append(value)

    @staticmethod
    def _mean(values: Sequence[float]) -> float | None:
        finite = [value for value in values if math.isfinite(value)]
        return float(np.mean(finite)) if finite else None

    def _write(self, engine: Engine) -> None:
        if idist.get_rank() != 0:
            return
        entry: dict[str, Any] = {
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "loss": None,
            **{name: self._mean(values) for name, values in self._losses.items()},
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "seconds": round(time.perf_counter() - self._started, 3),
        }
        bad = sum(not math.isfinite(value) for value in self._losses.get("loss", ()))
        entry.update({"bad_steps": bad} if bad else {})
        entry.update(self._new_scores())
        with atomic_file(self.path) as file:
            entries = [*(earlier for earlier in read_log(self.path) if earlier["epoch"] < engine.state.epoch), entry]
            file.write_text("".join(f"{json.dumps(each)}\n" for each in entries), encoding="utf-8")

    def _new_scores(self) -> dict[str, float]:
        """Returns the evaluator's scores when it has run since the last entry."""
        if self.evaluator is None or not self.evaluator.state.metrics:
            return {}
        # ValidationHandler counts its runs in the evaluator's epoch (the trainer's epoch that it validates).
        if self.evaluator.state.epoch == self._validations:
            return {}
        self._validations = self.evaluator.state.epoch
        return {name: float(value) for name, value in self.evaluator.state.metrics.items() if np.ndim(value) == 0}


def loss_terms(loss: torch.nn.Module | None) -> Mapping[str, torch.Tensor]:
    """Returns the terms of a loss's last call, by name; none where the loss does not tell them."""
    return getattr(loss, "terms", {})


def loss_of(output: Any) -> float | None:
    """Reads the loss of a MONAI trainer's output, decollated or not; None where there is none (evaluators)."""
    first = output[0] if isinstance(output, list) and output else output
    loss = first.get("loss") if isinstance(first, Mapping) else None
    return None if loss is None else float(loss.detach())

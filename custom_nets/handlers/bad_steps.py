"""Training steps whose numbers are not finite: left out, counted, and the end of a run that has too many."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from torch import Tensor, nn

from custom_nets.errors import InputError, first_names
from custom_nets.io.weights import unwrapped


class BadStepsError(InputError):
    """Too many steps were not finite: the network of this moment must not take the place of an earlier one."""


class BadSteps:
    """Leaves out the steps of a trainer whose loss or gradient is not finite, and ends the run after some of them.

    A step that is left out changes neither weights nor buffers (such as the statistics of batch norm). It is told with
    the cases of its batch. `engine.state.bad_steps` counts those at the end of the steps so far, one after the other.

    With a gradient scaler (float16), gradients that are too large are normal, and left out by the scaler: these count
    only when it cannot scale any lower.

    Args:
        limit: steps of a run, from its start or where it was gone on with, at which it ends.
    """

    def __init__(self, limit: int = 5) -> None:
        if limit < 1:
            msg = f"max_bad_steps is {limit}; expected at least 1"
            raise InputError(msg)
        self.limit = limit
        self.count = 0
        self._buffers: list[Tensor] = []

    def attach(self, engine: SupervisedTrainer) -> None:
        """Registers with a trainer; before a handler that saves (`TrainingCheckpoints`)."""
        engine.state.bad_steps = 0
        engine.add_event_handler(Events.ITERATION_STARTED, self._remember)
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._check)
        engine.add_event_handler(Events.COMPLETED, self._end)

    def _remember(self, engine: SupervisedTrainer) -> None:
        self._buffers = [buffer.clone() for buffer in _changing(engine.network)]

    def _check(self, engine: SupervisedTrainer) -> None:
        if not _on_any_rank(_is_bad(engine), engine.state.device):
            engine.state.bad_steps = 0
            return
        self.count += 1
        engine.state.bad_steps += 1
        with torch.no_grad():
            for buffer, before in zip(_changing(engine.network), self._buffers, strict=True):
                buffer.copy_(before)
        if engine.scaler is None or not engine.amp:  # a scaler leaves the step out itself, and must see why
            for parameter in engine.network.parameters():
                parameter.grad = None
        cases = batch_cases(engine.state.batch)
        named = f" with {first_names(cases)}" if cases else ""
        if self.count >= self.limit:
            raise BadStepsError(self._message(named))
        warnings.warn(
            f"step {engine.state.iteration}{named}: loss or gradient is not finite (NaN or infinite); left out",
            stacklevel=2,
        )

    def _end(self, engine: SupervisedTrainer) -> None:
        if engine.state.bad_steps:
            raise BadStepsError(self._message(""))

    def _message(self, named: str) -> str:
        return (
            f"{self.count} steps had a loss or gradient that is not finite (NaN or infinite), the last{named}; "
            "the last good state is kept. Lower learning_rate, give --amp false, or check the cases (custom-nets check)"
        )


def batch_cases(batch: Any) -> list[str]:
    """Returns the names of the cases in a batch, as their metadata or the batch tell them; none where neither does."""
    if not isinstance(batch, dict):
        return []
    named = batch.get("case") or getattr(batch.get("image"), "meta", {}).get("case", ())
    return list(dict.fromkeys([named] if isinstance(named, str) else map(str, named)))


def _changing(network: nn.Module) -> Sequence[Tensor]:
    """The buffers that a forward pass may change and that are saved."""
    saved = unwrapped(network).state_dict()
    return [buffer for name, buffer in unwrapped(network).named_buffers() if name in saved]


def _is_bad(engine: SupervisedTrainer) -> bool:
    loss = float(engine.state.output["loss"].detach())
    if not math.isfinite(loss):
        return True
    gradients = [parameter.grad for parameter in engine.network.parameters() if parameter.grad is not None]
    if math.isfinite(float(torch.nn.utils.get_total_norm(gradients, float("inf")))):
        return False
    return engine.scaler is None or not engine.amp or engine.scaler.get_scale() <= 1


def _on_any_rank(bad: bool, device: torch.device) -> bool:
    """All processes of a job leave out the same steps, so that their networks stay the same."""
    if idist.get_world_size() == 1:
        return bad
    return bool(idist.all_reduce(torch.tensor(float(bad), device=device), "MAX"))

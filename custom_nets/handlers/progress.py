"""A progress bar over a whole run."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

import ignite.distributed as idist
from ignite.engine import Engine, Events
from tqdm import tqdm

from custom_nets.distributed import gather_items
from custom_nets.engines.case_by_case import CaseEvaluator
from custom_nets.handlers.scores import loss_of
from custom_nets.logs import duration

logger = logging.getLogger(__name__)


class Progress:
    """Progress bar over a whole run (not one an epoch), with the loss and the time left.

    Args:
        description: shown in front of the bar.
        unit: what an iteration is.
        raises: whether it raises what ended the run, which otherwise nobody hears of; false where a later handler does
            so (`TrainingCheckpoints`), which ignite would then not call.
        results: folder of the results, which one line at the end tells, with what was done and the time; None tells
            nothing.
    """

    def __init__(
        self,
        description: str = "training",
        unit: str = "step",
        raises: bool = True,
        results: str | Path | None = None,
    ) -> None:
        self.description = description
        self.unit = unit
        self.raises = raises
        self.results = results
        self._started = 0.0
        self._bar: tqdm | None = None

    def attach(self, engine: Engine) -> None:
        """Registers the bar; it shows on the first rank only."""
        engine.add_event_handler(Events.STARTED, self._open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._advance)
        engine.add_event_handler(Events.COMPLETED, self._end)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

    def _open(self, engine: Engine) -> None:
        self._started = time.perf_counter()
        total = (engine.state.epoch_length or 0) * (engine.state.max_epochs or 1)
        # A file or a pipe gets a line now and then instead of a redrawn bar.
        interval = 0.1 if sys.stderr.isatty() else 15.0
        self._bar = tqdm(
            total=total or None,
            initial=engine.state.iteration,
            desc=self.description,
            unit=self.unit,
            mininterval=interval,
            maxinterval=interval,
            disable=idist.get_rank() != 0,
            dynamic_ncols=True,
        )

    def _advance(self, engine: Engine) -> None:
        if self._bar is None:
            return
        loss = loss_of(engine.state.output)
        if loss is not None:
            self._bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        self._bar.update()

    def _end(self, engine: Engine) -> None:
        self._close(engine)
        if self.results is None:
            return
        done = sum(gather_items([engine.state.iteration - len(getattr(engine, "left_out", ()))]))
        left_out = len(engine.reasons()) if isinstance(engine, CaseEvaluator) else 0
        told = f", {left_out} left out" if left_out else ""
        spent = duration(time.perf_counter() - self._started)
        if idist.get_rank() == 0:
            logger.info("%d %s%s in %s%s; results: %s", done, self.unit, "s" * (done != 1), spent, told, self.results)

    def _close(self, _engine: Engine) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _fail(self, engine: Engine, error: Exception) -> None:
        self._close(engine)
        if self.raises:
            raise error

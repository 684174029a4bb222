"""Inference and evaluation case by case: one that fails, whatever its fault, is left out, and the others go on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import ignite.distributed as idist
from ignite.engine import Events
from monai.data import Dataset
from monai.engines import IterationEvents, SupervisedEvaluator

from custom_nets.distributed import gather_items
from custom_nets.errors import InputError, describe, tell_torchrun

SOME_LEFT_OUT = 3
"""Exit status of an inference or evaluation that left cases out; 1 where it left out all of them."""

_FAULT = "fault"

logger = logging.getLogger(__name__)


class CaseDataset(Dataset):
    """MONAI's `Dataset`, except that an item that cannot be read becomes a note of its fault, for `CaseEvaluator`.

    Args:
        data: items.
        transform: that reads one.
        needs_label: whether a case whose label alone is at fault is left out. Else it is read without, with a warning:
            inference needs none.
    """

    def __init__(self, data: Any, transform: Any = None, needs_label: bool = False) -> None:
        super().__init__(data, transform)
        self.needs_label = needs_label

    def _transform(self, index: int) -> Any:
        item = self.data[index]
        try:
            return super()._transform(index)
        except Exception as error:  # whatever is wrong with one case, the others go on
            fault = describe(error)
        if "label" in item and not self.needs_label:
            try:
                read = self.transform({key: value for key, value in item.items() if key != "label"})
            except Exception as error:
                fault = describe(error)
            else:
                logger.warning("label not used: %s", fault)
                return read
        return {"case": str(item.get("case", index)), _FAULT: fault}


class CaseEvaluator(SupervisedEvaluator):
    """MONAI's evaluator, with a batch of one case, except that a faulty one is left out, and named then and at the end.

    What a case scores is measured as a part of it: one that cannot be scored is left out, too, of every metric.

    `run` ends the process with `SOME_LEFT_OUT` where cases were left out, and raises an `InputError` where all were; of
    several processes each does so. A data list may name in an attribute `left_out` those that were left out before.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.left_out: dict[str, str] = {}
        self._metrics: list[Any] = []
        super().__init__(*args, **kwargs)
        # Before MONAI's own handlers: these stop the run.
        self.add_event_handler(Events.STARTED, lambda _: self.left_out.clear())

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]
        """Evaluates all cases, see `monai.engines.Evaluator`.

        Raises:
            InputError: when all were left out.
            SystemExit: with `SOME_LEFT_OUT` when some were.
        """
        super().run(global_epoch)
        self._end_if_all_left_out()
        reasons = self.reasons()
        if not reasons:
            return
        msg = "\n".join([f"{len(reasons)} of {self._total()} cases were left out:", *reasons])
        if idist.get_rank() == 0:
            logger.error(msg)
            tell_torchrun(msg)
        idist.barrier()  # torchrun ends the others when the first has ended
        raise SystemExit(SOME_LEFT_OUT)

    def reasons(self) -> list[str]:
        """Returns why cases were left out, a line each; of all processes, each of which must call this."""
        return [*self._listed, *gather_items(list(self.left_out.values()))]

    @property
    def _listed(self) -> Sequence[str]:
        """Why cases were left out when they were listed."""
        return getattr(self.data_loader.dataset.data, "left_out", ())  # type: ignore[union-attr]

    def _total(self) -> int:
        return len(self._listed) + sum(gather_items([int(self.state.epoch_length or 0)]))

    def _end_if_all_left_out(self, _engine: Any = None) -> None:
        reasons, total = self.reasons(), self._total()
        if reasons and len(reasons) == total:
            msg = "\n".join([f"all {total} cases were left out:", *reasons])
            raise InputError(msg)

    def _register_metrics(self, k_metric: dict, add_metrics: dict | None = None) -> None:
        """Registers metrics that measure a case within its iteration, and tell nothing where there was none."""
        self.add_event_handler(Events.EPOCH_COMPLETED, self._end_if_all_left_out)
        super()._register_metrics(k_metric, add_metrics)
        self._metrics = [*k_metric.values(), *(add_metrics or {}).values()]
        for metric in self._metrics:
            self.remove_event_handler(metric.iteration_completed, Events.ITERATION_COMPLETED)
            self.add_event_handler(IterationEvents.MODEL_COMPLETED, metric.iteration_completed)

    def _iteration(self, engine: SupervisedEvaluator, batchdata: Any) -> Any:
        case = _first(batchdata.get("case")) if isinstance(batchdata, Mapping) else None
        fault = _first(batchdata.get(_FAULT)) if isinstance(batchdata, Mapping) else None
        if fault is None:
            try:
                return super()._iteration(engine, batchdata)
            except Exception as error:
                fault = describe(error)
        name = str(case if case is not None else f"number {engine.state.iteration}")
        self.leave_out(name, fault)
        for metric in self._metrics:  # of those that had measured it already
            for rows in getattr(getattr(metric, "metric_fn", None), "_buffers", None) or ():
                del rows[engine.state.iteration - len(self.left_out) :]
        return []

    def leave_out(self, case: str, fault: str) -> None:
        """Notes that a case has no results, or not all of them, and why; only the first fault of a case counts."""
        if case not in self.left_out:
            self.left_out[case] = fault if f"case {case}" in fault else f"case {case}: {fault}"
            logger.error("left out: %s", self.left_out[case])


def _first(value: Any) -> Any:
    """Returns the entry of the only item of a batch."""
    return value[0] if isinstance(value, list | tuple) and value else value

"""Inference case by case: a case that fails, whatever its fault, is left out, and the others go on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ignite.engine import Events
from monai.data import Dataset
from monai.engines import SupervisedEvaluator

from custom_nets.errors import InputError, describe

SOME_LEFT_OUT = 3
"""Exit status of an inference that left cases out; 1 where it left out all of them."""

_FAULT = "fault"

logger = logging.getLogger(__name__)


class CaseDataset(Dataset):
    """MONAI's `Dataset`, except that an item that cannot be read becomes a note of its fault, for `CaseEvaluator`.

    Where its label alone is at fault the case is read without it, with a warning: inference does not need one.
    """

    def _transform(self, index: int) -> Any:
        item = self.data[index]
        try:
            return super()._transform(index)
        except Exception as error:  # whatever is wrong with one case, the others go on
            fault = describe(error)
        if "label" in item:
            try:
                read = self.transform({key: value for key, value in item.items() if key != "label"})
            except Exception as error:
                fault = describe(error)
            else:
                logger.warning("label not used: %s", fault)
                return read
        return {"case": str(item.get("case", index)), _FAULT: fault}


class CaseEvaluator(SupervisedEvaluator):
    """MONAI's evaluator, with a batch of one case, except that a case that fails is left out, and named at the end.

    `run` ends the process with `SOME_LEFT_OUT` where cases were left out, and raises an `InputError` where all were.
    A data list may name in an attribute `left_out` those that were left out before.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.left_out: dict[str, str] = {}
        # Before MONAI's own handlers: these stop the run.
        self.add_event_handler(Events.STARTED, lambda _: self.left_out.clear())

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]
        """Infers all cases, see `monai.engines.Evaluator`.

        Raises:
            InputError: when none could be inferred.
            SystemExit: with `SOME_LEFT_OUT` when some could not.
        """
        super().run(global_epoch)
        before = list(getattr(self.data_loader.dataset.data, "left_out", ()))  # type: ignore[union-attr]
        reasons = [*before, *self.left_out.values()]
        if not reasons:
            return
        total = len(before) + int(self.state.epoch_length or 0)
        if len(reasons) == total:
            msg = "\n".join([f"all {total} cases were left out:", *reasons])
            raise InputError(msg)
        logger.error("\n".join([f"{len(reasons)} of {total} cases were left out:", *reasons]))
        raise SystemExit(SOME_LEFT_OUT)

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
        return []

    def leave_out(self, case: str, fault: str) -> None:
        """Notes that a case has no results, or not all of them, and why; only the first fault of a case counts."""
        if case not in self.left_out:
            self.left_out[case] = fault if f"case {case}" in fault else f"case {case}: {fault}"
            logger.error("left out: %s", self.left_out[case])


def _first(value: Any) -> Any:
    """Returns the entry of the only item of a batch."""
    return value[0] if isinstance(value, list | tuple) and value else value

"""Records of finished cases, so that an inference that was cut short goes on where it ended."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from custom_nets.datasets.hashing import hash_case, hash_settings
from custom_nets.errors import InputError
from custom_nets.io.files import atomic_file, remove_unfinished
from custom_nets.io.model_settings import hash_weights
from custom_nets.io.weights import unwrapped
from custom_nets.transforms.saving.case_files import file_name
from custom_nets.transforms.saving.writers import ResultWriters

logger = logging.getLogger(__name__)

FOLDER = ".finished"
"""In the folder of all results: a record of each finished case."""


class FinishedCases:
    """Records each case whose results are complete, and leaves those out that are, when it is asked to.

    A case counts as finished when its results were made by the same weights, with the same settings, from files that
    have not changed since, and every file of them is still the one that was written.

    Args:
        output_dir: folder of all cases.
        network: with the weights of this run once it has started.
        settings: what else the results depend on, such as transforms and inferer; see `hash_settings`.
        skip: whether finished cases are left out.
        writers: processes that write the results, where there are several cases; it starts and ends them. What they
            cannot write is left out of the run, as a `CaseEvaluator` does.
    """

    def __init__(
        self,
        output_dir: str | Path,
        network: torch.nn.Module,
        settings: Any,
        skip: bool = False,
        writers: ResultWriters | None = None,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.network = network
        self.settings = settings
        self.skip = skip
        self.writers = writers
        self._run = ""
        self._items: dict[str, Any] = {}

    def attach(self, engine: Engine) -> None:
        """Registers with an evaluator; after the handler that loads the weights, before one that counts cases."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._record)
        if self.writers is not None:
            engine.add_event_handler(Events.STARTED, self._start_writers)
            engine.add_event_handler(Events.COMPLETED, self._await_writers)

    def _start(self, engine: Engine) -> None:
        if self.writers is not None:
            self.writers.stop()  # of a run that was interrupted
        weights = hash_weights(unwrapped(self.network).state_dict())
        self._run = f"{weights} {hash_settings(self.settings).decode()}"
        loader: Any = engine.data_loader  # type: ignore[attr-defined]
        items = loader.dataset.data
        self._items = {str(item["case"]): item for item in items if "case" in item}
        if not self.skip:
            return
        mine = list(loader.sampler)  # of several processes each has its own
        left = [index for index in mine if not self._is_finished(items[index])]
        logger.info(
            "%d of %d cases are finished, by this model and with these settings", len(mine) - len(left), len(mine)
        )
        loader.batch_sampler.sampler = left
        if left:
            engine.state.epoch_length = len(loader)
        else:
            engine.terminate()

    def _is_finished(self, item: Mapping[str, Any]) -> bool:
        record = self._file(str(item.get("case")))
        try:
            content = json.loads(record.read_text(encoding="utf-8"))
            return content == self._state(item) and bool(content["files"])
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _record(self, engine: Engine) -> None:
        batch: Any = engine.state.batch
        for entry in batch if isinstance(batch, list) else [batch]:
            case = str(entry.get("case"))
            if self.writers is None or not self.writers.is_writing(case):
                self._record_case(engine, case)
        self._settle(engine)

    def _record_case(self, engine: Engine, case: str) -> None:
        left_out = getattr(engine, "left_out", ())  # of a `CaseEvaluator`: cases whose results are not all there
        item = self._items.get(case)
        if item is not None and case not in left_out and self._folder(item).is_dir():
            remove_unfinished(self._folder(item))
            with atomic_file(self._file(case)) as file:
                file.write_text(json.dumps(self._state(item), indent=1) + "\n", encoding="utf-8")

    def _start_writers(self, engine: Engine) -> None:
        if self.writers is not None and (engine.state.epoch_length or 0) > 1:
            self.writers.start()

    def _settle(self, engine: Engine, all_cases: bool = False) -> None:
        for case, fault in self.writers.settled(all_cases) if self.writers is not None else ():
            if fault is None:
                self._record_case(engine, case)
            elif not hasattr(engine, "leave_out"):
                msg = f"case {case}: {fault}"
                raise InputError(msg)
            else:
                engine.leave_out(case, fault)

    def _await_writers(self, engine: Engine) -> None:
        self._settle(engine, all_cases=True)
        if self.writers is not None:
            self.writers.stop()
        # In the order of the cases, whatever was noticed first.
        left_out = getattr(engine, "left_out", {})
        for case in [case for case in self._items if case in left_out]:
            left_out[case] = left_out.pop(case)

    def _state(self, item: Mapping[str, Any]) -> dict[str, Any]:
        files = sorted(file for file in self._folder(item).iterdir() if file.is_file())
        hashes = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
        return {"run": self._run, "item": hash_case(item).decode(), "files": hashes}

    def _folder(self, item: Mapping[str, Any]) -> Path:
        return self.output_dir / file_name(str(item["case"]))

    def _file(self, case: str) -> Path:
        return self.output_dir / FOLDER / f"{file_name(case)}.json"

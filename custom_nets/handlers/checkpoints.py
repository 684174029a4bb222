"""Checkpoints of a training run: the best model, the last state, going on from it, stopping early."""

from __future__ import annotations

import itertools
import logging
import math
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.engines import Trainer, Workflow
from monai.engines.utils import IterationEvents

from custom_nets.errors import InputError, first_names
from custom_nets.handlers.bad_steps import BadStepsError
from custom_nets.handlers.epoch_stream import EpochStream
from custom_nets.handlers.random_state import RandomState
from custom_nets.handlers.stop_requests import StopRequests
from custom_nets.io.files import keep_as, remove_unfinished
from custom_nets.io.model_settings import check_settings, training_record, with_settings
from custom_nets.io.weights import load_state, names_not_finite, read_tensors, save_tensors, unwrapped

logger = logging.getLogger(__name__)

_MODEL = "model.pt"
_LAST = "checkpoint_last.pt"
_PREVIOUS = "checkpoint_previous.pt"
_BEST = "checkpoint_best.pt"
_STATES = (_LAST, _BEST, _PREVIOUS)
_OLD_STATES = "training_*.pt"  # of runs of version 0.1
_ASIDE = "earlier-"


class TrainingCheckpoints:
    """Saves a run so that it can be used, and gone on with; a run that fails leaves what was there as it was.

    Writes to `ckpt_dir`:

    - `model.pt`: state dict of the network alone with the best score so far, at the end of a run without validation
      the last one; what evaluation and inference load.
    - `checkpoint_best.pt`: the whole state at that moment.
    - `checkpoint_last.pt`: the whole state every `interval` epochs and at the end, also when the run is interrupted or
      fails; `checkpoint_previous.pt`: the one before.

    The whole state holds what `state` names, the trainer's epoch, and the best score. Nothing is written before the
    first step has succeeded. Each file is complete, on the disk, before it takes the place of the one before. A network
    that is not finite is never saved. Of several processes the first alone writes.

    What an earlier run left is set aside into folders `earlier-<time>` beside it, so that runs do not mix: its `logs`
    after the first step, its files in `ckpt_dir` when the first of this run is complete.

    SIGTERM and Ctrl-C end the run after the present step: its state is saved, one line tells so, and the exit status is
    the shell's for that signal. (MONAI's `CheckpointSaver` writes at the start of a failed run, deletes a file before
    the next one is there, and forgets its best score; little of it would be left.)

    A run that goes on equals one that was never interrupted, bit for bit on a CPU: see `EpochStream`.

    Args:
        ckpt_dir: folder.
        state: name to object with a state dict; `network` among them.
        evaluator: whose key metric tells the best.
        interval: epochs between two states of a run under way; 0 saves none.
        resume: whether to go on from the newest state in `ckpt_dir`; with more epochs than before, its schedule is
            made for the new number.
        logs: files and folders that a run writes, and the next one must not mix with its own.
        keys: of the config, that describe the network and its input; they travel with the weights, see
            `training_record`.
        dataset_dir: whose name does so.
    """

    def __init__(
        self,
        ckpt_dir: str | Path,
        state: Mapping[str, Any],
        evaluator: Workflow,
        interval: int = 5,
        resume: bool = False,
        logs: Sequence[str | Path] = (),
        keys: Mapping[str, Any] | None = None,
        dataset_dir: str | Path = "",
    ) -> None:
        self.ckpt_dir = Path(ckpt_dir)
        self.state = dict(state)
        self.evaluator = evaluator
        self.interval = interval
        self.resume = resume
        self.logs = [Path(path) for path in logs]
        self.keys = keys or {}
        self.data_name = Path(dataset_dir).resolve().name if str(dataset_dir) else ""
        self._stop = StopRequests()
        self._stream = EpochStream(0)
        self._random: dict[str, Any] = {}
        self._begun = False  # whether a step of this run has succeeded
        self._step = 0  # the last one that did
        self._saved = -1  # that of the newest state on the disk
        self._updating = False
        self._epoch_over = True  # whether all that belongs to the last epoch has been done, or validating has begun
        self._validating = False
        self._own = False  # whether the files of an earlier run have been set aside
        self._last_is_ours = False  # whether the newest state is of this run, and whole

    def attach(self, engine: Trainer) -> None:
        """Registers with a trainer."""
        events: dict[Any, Callable[..., None]] = {
            Events.STARTED: self._start,
            Events.EPOCH_STARTED: self._stream_epoch,
            IterationEvents.BACKWARD_COMPLETED: self._update,
            Events.ITERATION_COMPLETED: self._step_done,
            Events.EPOCH_COMPLETED: self._epoch_done,
            Events.COMPLETED: self._completed,
            Events.EXCEPTION_RAISED: self._failed,
        }
        for event, handler in events.items():
            engine.add_event_handler(event, handler)
        self.evaluator.add_event_handler(Events.STARTED, self._validation_started)
        if idist.get_world_size() == 1:  # of several processes each validates as many cases as it has
            self.evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda _: self._end_if_asked(engine))
        self.evaluator.add_event_handler(Events.EPOCH_COMPLETED, lambda _: self._validated(engine))

    def _start(self, engine: Trainer) -> None:
        self._stream = EpochStream(torch.initial_seed() % 2**32 - idist.get_rank())
        skip, validate = 0, False
        if self.resume:
            skip, validate = self._go_on(engine)
            self._remove_unfinished()
        self._step = engine.state.iteration
        self._saved = self._step if self._last_is_ours or not self.resume else -1
        self._stream.start(engine, engine.state.dataloader, skip, self._restore_random)
        self._stop.listen()
        if validate:
            self.evaluator.run(engine.state.epoch)  # type: ignore[call-arg]
            self._saved = -1  # what is on the disk does not know of this score

    def _go_on(self, engine: Trainer) -> tuple[int, bool]:
        """Loads the newest state; returns the steps of its epoch that are done, and whether to validate first."""
        file, content = newest_state(self.ckpt_dir)
        self._last_is_ours = file.name == _LAST
        self._check_length(engine, file, content["trainer"])
        misfit = load_state(self.state["network"], content["network"])
        if misfit:
            msg = f"{file}: does not fit the network: {misfit}; give the keys and config files of the run to go on with"
            raise InputError(msg)
        check_settings(file, content["network"], self.keys, strict=False)
        for name, target in self.state.items():
            if name in ("network", "lr_scheduler"):
                continue
            try:
                target.load_state_dict(content[name])
            except (KeyError, ValueError) as error:
                msg = (
                    f"{file}: its {name} does not fit ({error}); give the config files of the run to go on with, or "
                    f"start anew from its weights with --load_model {file}"
                )
                raise InputError(msg) from error
        if "lr_scheduler" in self.state:
            _load_schedule(self.state["lr_scheduler"], content["lr_scheduler"])
        self._random = content.get("random_state", {})
        trainer = content["trainer"]
        self._stream.seed = trainer.get("seed", self._stream.seed)
        for name in _OF_EVALUATOR:
            if name in trainer:
                setattr(self.evaluator.state, name, trainer[name])
        engine.state.iteration = trainer["iteration"]
        engine.state.epoch, skip = divmod(trainer["iteration"], engine.state.epoch_length)
        where = f"epoch {engine.state.epoch}" + (f" and {skip} steps" if skip else "")
        logger.info("going on from %s, after %s of %s", file, where, engine.state.max_epochs)
        if engine.state.epoch == engine.state.max_epochs:
            logger.info("this run is finished, nothing is changed; give more --epochs to go on")
        return skip, bool(trainer.get("validating"))

    @staticmethod
    def _check_length(engine: Trainer, file: Path, trainer: Mapping[str, int]) -> None:
        length = trainer["epoch_length"]
        if engine.state.epoch_length != length:
            msg = (
                f"{file}: its epochs have {length} steps, here they have {engine.state.epoch_length}; give the same "
                f"cases and batch_size, or --epoch_length {length}"
            )
            raise InputError(msg)
        if trainer["iteration"] > engine.state.max_epochs * length:
            msg = (
                f"{file}: {trainer['iteration'] / length:g} epochs are done, epochs is {engine.state.max_epochs}; "
                "give more --epochs"
            )
            raise InputError(msg)

    def _restore_random(self) -> None:
        if self._random:
            RandomState().load_state_dict(self._random)

    def _stream_epoch(self, engine: Trainer) -> None:
        self._stream.start_epoch(engine)

    def _update(self, _engine: Trainer) -> None:
        self._updating = True

    def _step_done(self, engine: Trainer) -> None:
        self._updating = self._epoch_over = False
        self._step = engine.state.iteration
        self._random = RandomState().state_dict()
        if not self._begun and not _bad(engine):
            self._begin()
        if self._step % engine.state.epoch_length:
            self._end_if_asked(engine)

    def _begin(self) -> None:
        """Makes room for the files of this run, once it is known to work."""
        self._begun = True
        if idist.get_rank() != 0:
            return
        try:
            self.ckpt_dir.mkdir(parents=True, exist_ok=True)
            self._remove_unfinished()
            if not self.resume:
                _set_aside(self.logs)
        except OSError as error:
            msg = f"{self.ckpt_dir}: cannot be written ({error.strerror}); give another ckpt_dir"
            raise InputError(msg) from error

    def _remove_unfinished(self) -> None:
        """Removes what a killed run was writing, also where this one has nothing left to write."""
        if idist.get_rank() == 0:
            for folder in {self.ckpt_dir, *(path.parent for path in self.logs)}:
                remove_unfinished(folder)

    def _epoch_done(self, engine: Trainer) -> None:
        self._epoch_over = True
        self._validating = False
        if self.interval and engine.state.epoch % self.interval == 0 and not _bad(engine):
            self._save_state(engine)
        self._end_if_asked(engine)

    def _validation_started(self, _evaluator: Engine) -> None:
        self._epoch_over = self._validating = True

    def _validated(self, engine: Trainer) -> None:
        """Keeps the network when its score is the best so far."""
        self._validating = False
        state = self.evaluator.state
        score = state.metrics.get(state.key_metric_name)
        best, best_epoch = getattr(state, "best_so_far", (None, -1))
        known = best is not None
        better = score is not None and math.isfinite(score) and not _bad(engine)
        better = better and (not known or self.evaluator.metric_cmp_fn(score, best))
        if better:
            best, best_epoch = float(score), state.epoch
        state.best_so_far = (best, best_epoch)
        if best is not None:  # MONAI takes the first score, also one that is not a number, and forgets earlier runs
            state.best_metric, state.best_metric_epoch = best, best_epoch
        if better and (self._begun or self.resume) and idist.get_rank() == 0:
            network = self._network_state(engine)
            if network is not None:
                self._save(_MODEL, network)
                self._save(_BEST, self._whole(engine, network))

    def _completed(self, engine: Trainer) -> None:
        self._stop.release()
        # A run that was killed between its last two files goes on from the first of them, without a step.
        self._save_state(engine, ready=self._begun or self.resume)
        if self._begun and getattr(self.evaluator.state, "best_so_far", (None,))[0] is None and idist.get_rank() == 0:
            network = self._network_state(engine)
            if network is not None:
                self._save(_MODEL, network)
        if self._begun and (self.ckpt_dir / _MODEL).is_file():
            self._tell_best(engine)

    def _tell_best(self, engine: Trainer) -> None:
        """Tells what a training ends with: the best score, its epoch, and the file of the model."""
        score, epoch = getattr(self.evaluator.state, "best_so_far", (None, -1))
        name = self.evaluator.state.key_metric_name
        told = f"epoch {engine.state.epoch}, the last" if score is None else f"epoch {epoch}, best {name} {score:.4f}"
        logger.info("%s: %s", self.ckpt_dir / _MODEL, told)

    def _failed(self, engine: Trainer, error: BaseException) -> None:
        self._stop.release()
        whole = not self._updating and (self._epoch_over or self._step % engine.state.epoch_length != 0)
        if whole and not isinstance(error, BadStepsError) and not _bad(engine):
            try:
                self._save_state(engine)
            except InputError as unsaved:
                logger.error("%s", unsaved)
        if self._stop.number is not None and not isinstance(error, KeyboardInterrupt):
            self._leave(engine)
        raise error

    def _end_if_asked(self, engine: Trainer) -> None:
        asked = self._stop.number or 0
        if idist.get_world_size() > 1:  # all processes must end after the same step
            asked = int(idist.all_reduce(torch.tensor(float(asked), device=engine.state.device), "MAX"))
        if asked:
            self._stop.number = asked
            # ignite would tell the exit status as an error.
            for each in (engine, self.evaluator):
                each.logger.setLevel(logging.CRITICAL)
            raise SystemExit(128 + asked)

    def _leave(self, engine: Trainer) -> None:
        number = self._stop.number or 0
        if idist.get_rank() == 0:
            done = f"after step {self._step}, in epoch {math.ceil(self._step / engine.state.epoch_length)}"
            saved = (
                "its state is saved, go on with --resume true"
                if self._saved == self._step and self._begun
                else "nothing new is saved"
            )
            print(f"stopped by {self._stop.name} {done}; {saved} ({self.ckpt_dir / _LAST})", file=sys.stderr)
        raise SystemExit(128 + number)

    def _save_state(self, engine: Trainer, ready: bool | None = None) -> None:
        """Saves the state after the last step, unless it is saved, or it is not finite.

        Args:
            engine: the trainer.
            ready: whether there is anything to save; None: once a step has succeeded.
        """
        ready = self._begun if ready is None else ready
        if not ready or self._saved == self._step or idist.get_rank() != 0:
            return
        network = self._network_state(engine)
        if network is None:
            return
        self._save(_LAST, self._whole(engine, network))
        self._last_is_ours = True
        self._saved = self._step
        logger.debug("saved %s after step %s", self.ckpt_dir / _LAST, self._step)

    def _save(self, name: str, content: Any) -> None:
        save_tensors(self.ckpt_dir / name, content, lambda: self._make_room(name))

    def _make_room(self, name: str) -> None:
        if name == _LAST and self._last_is_ours:
            keep_as(self.ckpt_dir / _LAST, self.ckpt_dir / _PREVIOUS)
        if self._own or self.resume:
            return
        states = [self.ckpt_dir / name for name in _STATES]
        _set_aside([*states, *self.ckpt_dir.glob(_OLD_STATES)], copied=[self.ckpt_dir / _MODEL])
        self._own = True

    def _network_state(self, engine: Trainer) -> Mapping[str, torch.Tensor] | None:
        """Returns the network's state dict with the settings of this run; None, with a warning, if it is not finite."""
        state = unwrapped(self.state["network"]).state_dict()
        wrong = names_not_finite(state)
        if wrong:
            logger.warning("the network is not finite (NaN or infinite) in %s; it is not saved", first_names(wrong))
            return None
        loaders = {"training": engine.data_loader, "validation": self.evaluator.data_loader}
        cases = {name: getattr(getattr(loader, "dataset", None), "data", ()) for name, loader in loaders.items()}
        scores = {**self.evaluator.state.metrics, "epoch": self.evaluator.state.epoch}
        return with_settings(state, training_record(self.keys, state, cases, scores, self.data_name))

    def _whole(self, engine: Trainer, network: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        state = {name: target.state_dict() for name, target in self.state.items() if name != "network"}
        state["network"] = network
        known = {name: getattr(self.evaluator.state, name, None) for name in _OF_EVALUATOR}
        return {
            **state,
            "random_state": self._random,
            "trainer": {
                "epoch_length": engine.state.epoch_length,
                "iteration": self._step,
                "max_epochs": engine.state.max_epochs,
                "seed": self._stream.seed,
                "validating": self._validating,
                **{name: value for name, value in known.items() if value is not None},
            },
        }


_OF_EVALUATOR = ("best_so_far", "best_metric", "best_metric_epoch", "stopping")
"""Attributes of the evaluator's state that a run's state keeps."""


def newest_state(ckpt_dir: str | Path) -> tuple[Path, dict[str, Any]]:
    """Returns the newest state of a run that is complete, and its file; those that are damaged are told.

    Raises:
        InputError: when there is none.
    """
    folder = Path(ckpt_dir)
    files = [folder / name for name in _STATES if (folder / name).is_file()] + sorted(folder.glob(_OLD_STATES))
    found: list[tuple[Path, dict[str, Any]]] = []
    for file in files:
        try:
            content = read_tensors(file)
            wrong = names_not_finite(content["network"])
            if wrong:
                logger.warning("%s: not finite in %s; passed over", file, first_names(wrong))
            else:
                found.append((file, content))
        except InputError as error:
            logger.warning("%s", error)
        except (KeyError, TypeError, AttributeError):
            logger.warning("%s: is no state of a training; passed over", file)
    if not found:
        msg = f"{folder}: nothing to resume from (no {_LAST}); give the ckpt_dir of the earlier run, or resume=false"
        if files:
            named = first_names([file.name for file in files])
            msg = f"{folder}: nothing to resume from, {named} cannot be used; start anew with resume=false"
        raise InputError(msg)
    return max(found, key=lambda pair: pair[1]["trainer"]["iteration"])


def _bad(engine: Trainer) -> bool:
    """Whether the last step was left out, see `BadSteps`."""
    return bool(getattr(engine.state, "bad_steps", 0))


def _load_schedule(scheduler: Any, saved: Mapping[str, Any]) -> None:
    """Loads the state of a schedule; one that was made otherwise (for fewer epochs) is made anew up to where it was.

    Args:
        scheduler: new, its optimizer's state loaded already.
        saved: its state dict.
    """
    fresh = scheduler.state_dict()
    settings = [name for name in saved if not name.startswith("_") and name != "last_epoch"]
    if "base_lrs" not in saved or all(fresh.get(name) == saved[name] for name in settings):
        scheduler.load_state_dict(saved)
        return
    for group, rate in zip(scheduler.optimizer.param_groups, scheduler.base_lrs, strict=True):
        group["lr"] = group["initial_lr"] = rate
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch, that no step of the optimizer has been made
        for _ in range(saved["last_epoch"]):
            scheduler.step()
    changed = first_names([f"{name} {saved[name]}" for name in settings if fresh.get(name) != saved[name]])
    logger.info("the schedule of the learning rate is made anew (before: %s)", changed)


def _set_aside(files: Sequence[Path], copied: Sequence[Path] = ()) -> None:
    """Moves what an earlier run left into folders `earlier-<time>` beside it.

    Args:
        files: files and folders; those that there are.
        copied: files that stay where they are as well.
    """
    found = [path for path in (*copied, *files) if path.exists()]
    stamp = _ASIDE + time.strftime("%Y%m%d-%H%M%S")
    names = itertools.chain([stamp], (f"{stamp}-{number}" for number in itertools.count(2)))
    name = next(name for name in names if not any((path.parent / name).exists() for path in found))
    for path in found:
        folder = path.parent / name
        folder.mkdir(exist_ok=True)
        if path in copied:
            keep_as(path, folder / path.name)
        else:
            path.replace(folder / path.name)
    if found:
        folders = " and ".join(dict.fromkeys(str(path.parent / name) for path in found))
        logger.warning("an earlier run was there; its files are kept in %s", folders)


class EarlyStopping:
    """Ends the training when the evaluator's key metric has not improved for a number of validations.

    Args:
        evaluator: the validating engine; its state's `stopping` holds the best score and the validations since, which
            `TrainingCheckpoints` saves.
        patience: validations without improvement.
    """

    def __init__(self, evaluator: Workflow, patience: int) -> None:
        self.evaluator = evaluator
        self.patience = patience

    def attach(self, engine: Trainer) -> None:
        """Registers with a trainer."""
        self.evaluator.add_event_handler(Events.EPOCH_COMPLETED, lambda _: self._check(engine))

    def _check(self, engine: Trainer) -> None:
        state = self.evaluator.state
        score = state.metrics[state.key_metric_name]
        best, waited = getattr(state, "stopping", (-math.inf, 0))
        state.stopping = (float(score), 0) if score > best else (best, waited + 1)
        if state.stopping[1] >= self.patience:
            logger.info("no better score in %s validations: the training ends", self.patience)
            engine.terminate()

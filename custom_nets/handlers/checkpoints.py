"""Checkpoints of a training run: the best model, the last state, going on from it, stopping early."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.engines import Trainer, Workflow
from monai.handlers import CheckpointLoader, CheckpointSaver, EarlyStopHandler

from custom_nets.errors import InputError
from custom_nets.io.files import atomic_file

_PREFIX = "training"
_LAST = "checkpoint_last.pt"
_BEST = "checkpoint_best.pt"


class _WholeSaver(CheckpointSaver):
    """MONAI's saver, except that a file replaces the one before when it is complete."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for checkpoint in (self._final_checkpoint, self._key_metric_checkpoint, self._interval_checkpoint):
            if checkpoint is not None:
                # MONAI turns this off because ignite's files could be read by their owner alone; they no longer are.
                checkpoint.save_handler._atomic = True


class TrainingCheckpoints:
    """Saves a run so that it can be used, and gone on with.

    Writes to `ckpt_dir`:

    - `model.pt`: state dict of the network alone with the best score so far, at the end of a run without validation
      the last one; what evaluation and inference load.
    - `checkpoint_best.pt`: the whole state at that moment.
    - `checkpoint_last.pt`: the whole state at the end, also when the run is interrupted or fails.
    - `training_checkpoint_epoch=N.pt`: the newest state of a run under way, every `interval` epochs.

    The whole state holds what `state` names, and the trainer's epoch. Of several processes the first alone writes.
    Files are written whole or not at all, so that a job may be stopped at any time.

    Args:
        ckpt_dir: folder.
        state: name to object with a state dict; `network` among them.
        evaluator: whose key metric tells the best.
        interval: epochs between two states of a run under way; 0 saves none.
        resume: whether to go on from the newest state in `ckpt_dir`.
        device: where a resumed state is loaded to.
    """

    def __init__(
        self,
        ckpt_dir: str | Path,
        state: Mapping[str, Any],
        evaluator: Engine,
        interval: int = 5,
        resume: bool = False,
        device: Any = None,
    ) -> None:
        self.ckpt_dir = Path(ckpt_dir)
        self.state = dict(state)
        self.evaluator = evaluator
        self.interval = interval
        self.resume = resume
        self.device = device

    def attach(self, engine: Engine) -> None:
        """Registers with a trainer.

        Raises:
            InputError: when a run is to be resumed and there is nothing to go on from.
        """
        whole = {**self.state, "trainer": engine}
        if self.resume:
            CheckpointLoader(str(newest_checkpoint(self.ckpt_dir)), whole, map_location=self.device).attach(engine)
        _WholeSaver(
            str(self.ckpt_dir),
            whole,
            file_prefix=_PREFIX,
            save_final=True,
            final_filename=_LAST,
            save_interval=self.interval,
            n_saved=1,
        ).attach(engine)
        best = {"model.pt": {"model": self.state["network"]}, _BEST: whole}
        for filename, content in best.items():
            saver = _WholeSaver(str(self.ckpt_dir), content, save_key_metric=True, key_metric_filename=filename)
            saver.attach(self.evaluator)
        engine.add_event_handler(Events.COMPLETED, self._keep_unvalidated)

    def _keep_unvalidated(self, _engine: Engine) -> None:
        if self.evaluator.state.iteration == 0 and idist.get_rank() == 0:
            network = self.state["network"]
            with atomic_file(self.ckpt_dir / "model.pt") as file:
                torch.save(getattr(network, "module", network).state_dict(), file)


def newest_checkpoint(ckpt_dir: str | Path) -> Path:
    """Returns the newest state of a run that can be gone on with.

    Raises:
        InputError: when there is none.
    """
    folder = Path(ckpt_dir)
    found = [*folder.glob(_LAST), *folder.glob(f"{_PREFIX}_*.pt")]
    if not found:
        msg = f"{folder}: nothing to resume from (no {_LAST}); give the ckpt_dir of the earlier run, or resume=false"
        raise InputError(msg)
    return max(found, key=lambda path: path.stat().st_mtime)


class EarlyStopping:
    """Ends the training when the evaluator's key metric has not improved for a number of validations.

    Args:
        evaluator: the validating engine.
        patience: validations without improvement.
    """

    def __init__(self, evaluator: Workflow, patience: int) -> None:
        self.evaluator = evaluator
        self.patience = patience

    def attach(self, engine: Trainer) -> None:
        """Registers with a trainer."""
        handler = EarlyStopHandler(
            patience=self.patience,
            score_function=lambda evaluator: evaluator.state.metrics[evaluator.state.key_metric_name],
            trainer=engine,
        )
        handler.attach(self.evaluator)

"""The start of every run of a bundle: what a person typed is understood and checked before anything is written."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import traceback
from types import FrameType
from typing import Any

import monai
from monai.bundle import ConfigWorkflow

from custom_nets.errors import show_input_errors
from custom_nets.io.model_settings import take_over


def start_run(workflow: ConfigWorkflow | None) -> None:
    """Prepares a run; the first of our steps in the `initialize` of each config.

    Args:
        workflow: that runs; None where a config is parsed without one.
    """
    show_input_errors()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _end)
    if workflow is not None:
        take_over(workflow.parser, _typed_keys(), workflow.config_root_path)


def _end(number: int, _frame: FrameType | None) -> None:
    """Ends a run so that unfinished files are removed; a training that has begun saves its state instead."""
    print("stopped by SIGTERM; what was finished is kept", file=sys.stderr)
    logging.disable(logging.ERROR)  # ignite would tell the exit status as an error
    raise SystemExit(128 + number)


def _typed_keys() -> dict[str, Any]:
    """Returns the keys that `monai.bundle.run` was called with."""
    for frame, _ in traceback.walk_stack(None):
        if frame.f_code is monai.bundle.run.__code__:
            return dict(frame.f_locals["override"])
    return {}

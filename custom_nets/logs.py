"""What a run tells: our own lines, and on request all that MONAI and ignite log."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

FULL = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"
"""Format of the lines of a run that tells all."""

_OTHERS = ("", "ignite", "monai.bundle.scripts", "monai.bundle.workflows")


def show_logs(verbose: bool) -> None:
    """Shows all that MONAI and ignite log, with time and name, where that is wanted; else nothing is changed.

    What is shown without it is set by `configs/logging.conf`: our own lines, and warnings.

    Args:
        verbose: whether it is wanted.
    """
    if not verbose:
        return
    for name in _OTHERS:
        logging.getLogger(name).setLevel(logging.INFO)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(logging.Formatter(FULL))


@contextmanager
def quiet() -> Iterator[None]:
    """Hides what other packages warn of while a bundle is read and run, such as MONAI of the files of any bundle."""
    monai = logging.getLogger("monai.bundle")
    level = monai.level
    monai.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(?!custom_nets)")
            yield
    finally:
        monai.setLevel(level)


def duration(seconds: float) -> str:
    """Returns a time as it is read.

    >>> duration(5.52), duration(200), duration(4000)
    ('5.5 s', '3 min 20 s', '1 h 6 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"

"""A picture of a training while it goes on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ignite.distributed as idist
from ignite.engine import Engine, Events
from monai.utils import optional_import

from custom_nets.handlers.scores import read_log
from custom_nets.io.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NEEDED = "pip install matplotlib, or train with progress_picture=false"
_SCORE = "val_dice"
_PAUSE = 10.0
"""Seconds that lie at least between two pictures, so that short epochs are not spent with drawing."""


def draw_training(entries: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws loss, scores by region, learning rate and seconds of each epoch.

    Args:
        entries: of `JsonLog`, one an epoch.

    Returns:
        A matplotlib figure outside pyplot's state.
    """
    make_figure, _ = optional_import("matplotlib.figure", name="Figure", descriptor=_NEEDED)
    canvas, _ = optional_import("matplotlib.backends.backend_agg", name="FigureCanvasAgg", descriptor=_NEEDED)
    integers, _ = optional_import("matplotlib.ticker", name="MaxNLocator", descriptor=_NEEDED)
    figure = make_figure(figsize=(10, 8), layout="constrained")
    canvas(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    scores = above.twinx()
    for name in _names(entries, "loss"):
        style: dict[str, Any] = {"color": "#333333"} if name == "loss" else {"color": "#999999", "linestyle": "dotted"}
        above.plot(*_series(entries, name), label=name.replace("_", " "), **style)
    for name in _names(entries, _SCORE):
        style = {"color": "black", "linewidth": 2} if name == _SCORE else {"linewidth": 1.2}
        label = "Dice, mean" if name == _SCORE else name.removeprefix(f"{_SCORE}_")
        scores.plot(*_series(entries, name), label=label, marker=".", linestyle="dashed", **style)
    above.set(ylabel="loss")
    scores.set(ylabel="Dice of the validation", ylim=(0, 1))
    lines = [*above.get_lines(), *scores.get_lines()]
    figure.legend(lines, [line.get_label() for line in lines], loc="outside upper left", ncols=6, frameon=False)
    below.plot(*_series(entries, "seconds"), color="#0a7d74")
    below.set(xlabel="epoch", ylim=(0, None))
    below.set_ylabel("seconds an epoch", color="#0a7d74")
    below.xaxis.set_major_locator(integers(integer=True))
    rate = below.twinx()
    rate.plot(*_series(entries, "learning_rate"), color="#E8601C")
    rate.set_ylabel("learning rate", color="#E8601C")
    rate.set_ylim(0, None)
    return figure


def _names(entries: Sequence[Mapping[str, Any]], first: str) -> list[str]:
    """The names of the numbers that belong to one, itself first."""
    found = dict.fromkeys(key for entry in entries for key in entry if key == first or key.startswith(f"{first}_"))
    return sorted(found, key=lambda name: (name != first, list(found).index(name)))


def _series(entries: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    known = [(entry["epoch"], entry[name]) for entry in entries if entry.get(name) is not None]
    return [epoch for epoch, _ in known], [value for _, value in known]


class TrainingPicture:
    """Draws the log of a training after its epochs, over the picture before; see `draw_training`.

    Args:
        log: file of `JsonLog`, whose handler comes before this one.
        path: of the picture (.png).
    """

    def __init__(self, log: str | Path, path: str | Path) -> None:
        self.log = Path(log)
        self.path = Path(path)
        self._drawn = 0.0

    def attach(self, engine: Engine) -> None:
        """Registers with a trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Draws, unless it has done so just before and the training goes on."""
        last = engine.state.epoch == engine.state.max_epochs
        if idist.get_rank() != 0 or (not last and time.monotonic() - self._drawn < _PAUSE):
            return
        entries = read_log(self.log)
        if not entries:
            return
        with atomic_file(self.path) as file:
            draw_training(entries).savefig(file, format="png", dpi=100)
        self._drawn = time.monotonic()

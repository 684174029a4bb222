"""The picture of a training: what the log says, and not after every short epoch."""

import json

from ignite.engine import Engine
from PIL import Image

from custom_nets.handlers import TrainingPicture
from custom_nets.handlers.training_picture import draw_training

ENTRIES = [
    {"epoch": 1, "loss": 0.9, "loss_dice": 0.8, "learning_rate": 0.2, "seconds": 3.0},
    {"epoch": 2, "loss": None, "learning_rate": 0.1, "seconds": 2.0, "val_dice": 0.5, "val_dice_WT": 0.6},
]


def lines(figure):
    """The points of each line by its label, or by the label of its axis."""
    named = [(line, axes.get_ylabel()) for axes in figure.axes for line in axes.get_lines()]
    labels = [axis if line.get_label().startswith("_") else line.get_label() for line, axis in named]
    return {label: line.get_xydata().tolist() for label, (line, _) in zip(labels, named, strict=True)}


def test_draws_what_the_log_holds():
    drawn = lines(draw_training(ENTRIES))
    assert drawn["loss"] == [[1, 0.9]]
    assert drawn["loss dice"] == [[1, 0.8]]
    assert drawn["Dice, mean"] == [[2, 0.5]]
    assert drawn["WT"] == [[2, 0.6]]
    assert drawn["learning rate"] == [[1, 0.2], [2, 0.1]]
    assert drawn["seconds an epoch"] == [[1, 3.0], [2, 2.0]]


def test_short_epochs_share_a_picture(tmp_path, monkeypatch):
    log, path, drawn = tmp_path / "training.jsonl", tmp_path / "progress.png", []
    log.write_text("\n".join([*map(json.dumps, ENTRIES), '{"epoch": 3, "lo']))
    monkeypatch.setattr(
        "custom_nets.handlers.training_picture.draw_training",
        lambda entries: drawn.append(len(entries)) or draw_training(entries),
    )
    engine = Engine(lambda engine, batch: None)
    TrainingPicture(log, path).attach(engine)
    engine.run([0], max_epochs=5)
    assert drawn == [2, 2]  # the first and the last
    assert Image.open(path).size == (1000, 800)

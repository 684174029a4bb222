"""A picture of what an autoencoder makes of its input, while it trains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ignite.distributed as idist
import numpy as np
from ignite.engine import Engine, Events
from monai.utils import optional_import
from torch import Tensor

from custom_nets.io.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NEEDED = "pip install matplotlib, or train with reconstruction_picture=false"


def draw_reconstruction(image: Tensor, reconstruction: Tensor, names: Sequence[str], caption: str = "") -> Figure:
    """Draws the middle axial slice of every modality, the image above its reconstruction, in the same grey window.

    Args:
        image: `[C, H, W, D]`, its axes towards the patient's left, back and head.
        reconstruction: likewise.
        names: of the modalities.
        caption: written above.

    Returns:
        A matplotlib figure outside pyplot's state; the patient's right is on the viewer's left, the front is up.
    """
    make_figure, _ = optional_import("matplotlib.figure", name="Figure", descriptor=_NEEDED)
    canvas, _ = optional_import("matplotlib.backends.backend_agg", name="FigureCanvasAgg", descriptor=_NEEDED)
    rows = [np.asarray(volume.detach().float().cpu())[..., volume.shape[-1] // 2] for volume in (image, reconstruction)]
    width = 2.6 * len(names)
    height = 2.6 * rows[0].shape[2] / rows[0].shape[1] * 2 + 0.4
    figure = make_figure(figsize=(width, height), facecolor="black", layout="constrained")
    canvas(figure)
    axes = figure.subplots(2, len(names), squeeze=False)
    for channel, name in enumerate(names):
        window = np.percentile(rows[0][channel], (0.5, 99.5))
        for row, what in enumerate(("image", "reconstruction")):
            axes[row][channel].imshow(rows[row][channel].T, cmap="gray", vmin=window[0], vmax=window[1])
            axes[row][channel].set_title(f"{name} {what}", color="white", fontsize=9)
            axes[row][channel].set_axis_off()
    if caption:
        figure.suptitle(caption, color="white", fontsize=9)
    return figure


class ReconstructionPicture:
    """Writes a picture of the last training image and its reconstruction after every epoch, over the one before.

    The image is what the network saw: cropped, mirrored and shifted at random.

    Args:
        path: of the picture (.png).
        names: of the modalities.
    """

    def __init__(self, path: str | Path, names: Sequence[str]) -> None:
        self.path = Path(path)
        self.names = tuple(names)

    def attach(self, engine: Engine) -> None:
        """Registers with a trainer whose network gives an `NvNetOutput`, not decollated."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Draws the first image of the last batch; nothing where there is no reconstruction."""
        output: Any = engine.state.output
        reconstruction = output["pred"].reconstruction
        if reconstruction is None or idist.get_rank() != 0:
            return
        error = float((reconstruction.detach() - output["image"]).float().square().mean())
        caption = f"epoch {engine.state.epoch}, mean squared error {error:.3f}"
        figure = draw_reconstruction(output["image"][0], reconstruction[0], self.names, caption)
        with atomic_file(self.path) as file:
            figure.savefig(file, format="png", dpi=120)

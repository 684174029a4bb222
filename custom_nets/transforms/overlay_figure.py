"""Drawing regions over an image in three planes, as a radiologist holds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from monai.config import NdarrayOrTensor
from monai.utils import convert_to_numpy, optional_import

from custom_nets.transforms.meshes import bounding_box
from custom_nets.transforms.volumes import voxel_millilitres

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#56B4E9", "#F0E442", "#E8601C", "#CC79A7", "#009E73")
"""Colours of regions, outermost first: told apart under the common forms of colour blindness, and on grey."""

_BACKGROUND = "#0b0d10"
_TEXT = "#e8eaed"
_FAINT = "#9aa0a6"
_LABEL = "#ffffff"
Extent = tuple[float, float, float, float]

_NEEDED = "{}; overlays need matplotlib: pip install matplotlib"


@dataclass(frozen=True)
class Plane:
    """How one anatomical plane is cut from a RAS+ array and shown.

    Args:
        name: of the plane.
        axis: the RAS axis that it is cut across.
        across: the RAS axis that runs along the picture's rows, left to right in *decreasing* order.
        letters: directions at the left, right, upper and lower edge.
    """

    name: str
    axis: int
    across: int
    letters: tuple[str, str, str, str]

    @property
    def up(self) -> int:
        """The RAS axis that runs upwards in the picture."""
        return 3 - self.axis - self.across

    def cut(self, volume: np.ndarray, index: int) -> np.ndarray:
        """Returns the picture `[rows, columns]` of a RAS+ volume `[R, A, S]` at a slice."""
        plane = np.take(volume, index, axis=self.axis)
        # Both remaining axes run against the screen: rows go down, and the patient's right (and front) is on the left.
        return (plane.T if self.across < self.up else plane)[::-1, ::-1]


PLANES = (
    Plane("axial", axis=2, across=0, letters=("R", "L", "A", "P")),
    Plane("coronal", axis=1, across=0, letters=("R", "L", "S", "I")),
    Plane("sagittal", axis=0, across=1, letters=("A", "P", "S", "I")),
)


def to_ras(volumes: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turns and flips axes so that they run to the patient's right, front and head (nearest, for oblique grids).

    Args:
        volumes: `[C, H, W, D]`.
        affine: voxel indices to RAS millimetres `[4, 4]`.

    Returns:
        The volumes `[C, R, A, S]` and their affine `[4, 4]`.
    """
    io_orientation, _ = optional_import("nibabel.orientations", name="io_orientation")
    apply_orientation, _ = optional_import("nibabel.orientations", name="apply_orientation")
    inv_ornt_aff, _ = optional_import("nibabel.orientations", name="inv_ornt_aff")
    orientation = io_orientation(affine)
    turned = np.stack([apply_orientation(volume, orientation) for volume in volumes])
    return turned, affine @ inv_ornt_aff(orientation, volumes.shape[1:])


def largest_sections(tumour: np.ndarray) -> tuple[int, int, int]:
    """Returns, for each axis, the slice in which the most voxels lie; the middle one where there are none.

    Args:
        tumour: binary `[H, W, D]`.
    """
    found = []
    for axis in range(3):
        counts = tumour.sum(axis=tuple(other for other in range(3) if other != axis))
        # The middle of equals, not the first: a flat-topped tumour is cut through its centre.
        best = np.flatnonzero(counts == counts.max())
        found.append(int(best[len(best) // 2]))
    return found[0], found[1], found[2]


def _grey(volume: np.ndarray, window: tuple[float, float] | None) -> tuple[np.ndarray, np.ndarray]:
    """Scales intensities to 0..1; returns them with the mask of what is not the surrounding air."""
    # Normalised images have a background of 0 amid negative values: the corner tells what the surroundings hold.
    body = volume != volume[0, 0, 0]
    if not body.any():
        return np.zeros(volume.shape, dtype=np.float32), body
    low, high = window or np.percentile(volume[body], (0.5, 99.7))
    scaled = np.clip((volume - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)
    return np.where(body, scaled, 0), body


def _colour(region: int, opacity: float = 1.0) -> tuple[float, float, float, float]:
    """Returns the RGBA colour of a region channel."""
    to_rgba, _ = optional_import("matplotlib.colors", name="to_rgba", descriptor=_NEEDED)
    return to_rgba(COLOURS[region % len(COLOURS)], opacity)


def _fill(masks: Sequence[np.ndarray]) -> np.ndarray:
    """Paints nested masks `[rows, columns]` as one RGBA picture, inner regions over outer ones."""
    painted = np.zeros((*masks[0].shape, 4))
    for r, mask in enumerate(masks):
        painted[mask] = _colour(r, opacity=0.26)
    return painted


def _outline(axes: Axes, field: np.ndarray, level: float, extent: Extent, colour: Any, **line: Any) -> None:
    if field.min() <= level < field.max():
        axes.contour(field, levels=[level], colors=[colour], origin="upper", extent=extent, **line)


def _mark(axes: Axes, plane: Plane, caption: str) -> None:
    """Writes direction letters, the caption, and a bar of 5 cm."""
    places = [(0.015, 0.5, "left", "center"), (0.985, 0.5, "right", "center")]
    places += [(0.5, 0.985, "center", "top"), (0.5, 0.015, "center", "bottom")]
    for letter, (x, y, ha, va) in zip(plane.letters, places, strict=True):
        axes.text(x, y, letter, transform=axes.transAxes, color=_FAINT, fontsize=10, fontweight="bold", ha=ha, va=va)
    axes.text(0.015, 0.985, caption, transform=axes.transAxes, color=_TEXT, fontsize=9, ha="left", va="top")
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    if right - left > 80:
        end, level = right - 0.03 * (right - left), low + 0.025 * (high - low)
        axes.plot([end - 50, end], [level, level], color=_FAINT, linewidth=2, solid_capstyle="butt", scalex=False)
        axes.text(end - 25, level + 0.01 * (high - low), "5 cm", color=_FAINT, fontsize=7, ha="center", va="bottom")


def _draw_panel(
    axes: Axes,
    grey: np.ndarray,
    predicted: Sequence[np.ndarray],
    labelled: Sequence[np.ndarray],
    threshold: float,
    sides: tuple[float, float],
) -> None:
    """Draws one picture; every array `[rows, columns]`, `sides` its width and height in millimetres."""
    extent = (0.0, sides[0], 0.0, sides[1])
    limits = axes.get_ylim()
    axes.imshow(grey, cmap="gray", vmin=0, vmax=1, interpolation="bicubic", extent=extent, aspect="auto")
    filled = _fill([field > threshold for field in predicted])
    axes.imshow(filled, interpolation="nearest", extent=extent, aspect="auto")
    for r, field in enumerate(predicted):
        _outline(axes, field, threshold, extent, _colour(r), linewidths=1.3)
    for mask in labelled:
        _outline(axes, mask, 0.5, extent, _LABEL, linewidths=0.9, linestyles="dashed")
    axes.set(xlim=(0, sides[0]), ylim=limits)


def _legend(figure: Figure, case: str, regions: Sequence[str], millilitres: Sequence[Sequence[float]]) -> None:
    """Writes the case and, for each region, its colour and its predicted (and labelled) volume above the pictures."""
    line, _ = optional_import("matplotlib.lines", name="Line2D", descriptor=_NEEDED)
    patch, _ = optional_import("matplotlib.patches", name="Patch", descriptor=_NEEDED)
    predicted, *labelled = millilitres
    handles = [patch(facecolor=_colour(r, opacity=0.45), edgecolor=_colour(r)) for r in range(len(regions))]
    texts = [f"{region}  {ml:.1f} ml" for region, ml in zip(regions, predicted, strict=True)]
    if labelled:
        texts = [f"{text} (label {ml:.1f})" for text, ml in zip(texts, labelled[0], strict=True)]
        handles.append(line([], [], color=_LABEL, linewidth=1, linestyle="dashed"))
        texts.append("label")
    middle = 1 - 0.27 / figure.get_figheight()  # of the band above the pictures
    figure.text(0.008, middle, case, color=_TEXT, fontsize=14, fontweight="bold", ha="left", va="center")
    figure.legend(
        handles,
        texts,
        loc="center right",
        bbox_to_anchor=(0.998, middle),
        ncols=len(handles),
        frameon=False,
        labelcolor=_TEXT,
        fontsize=10,
        handlelength=1.6,
        handletextpad=0.6,
        columnspacing=1.8,
    )


class _Scene(NamedTuple):
    """Everything that is drawn, turned to RAS+ and cut to the head.

    Args:
        greys: intensities 0..1, one `[R, A, S]` a channel.
        predicted: one field `[R, A, S]` a region.
        labelled: one mask `[R, A, S]` a region; empty without a label.
        centre: the slice shown across each axis.
        affine: voxel indices of these arrays to RAS millimetres `[4, 4]`.
    """

    greys: Sequence[np.ndarray]
    predicted: Sequence[np.ndarray]
    labelled: Sequence[np.ndarray]
    centre: tuple[int, int, int]
    affine: np.ndarray

    def sides(self, plane: Plane) -> tuple[float, float]:
        """Returns the width and height in millimetres of a plane's pictures."""
        sides = np.asarray(self.greys[0].shape) * np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(sides[plane.across]), float(sides[plane.up])


def _scene(
    image: NdarrayOrTensor,
    prediction: NdarrayOrTensor,
    label: NdarrayOrTensor | None,
    affine: np.ndarray,
    window: tuple[float, float] | None,
    threshold: float,
) -> _Scene:
    """Prepares what `draw_overlay` draws."""
    images, ras = to_ras(convert_to_numpy(image).astype(np.float32), affine)
    predicted, _ = to_ras(convert_to_numpy(prediction).astype(np.float32), affine)
    labelled = predicted[:0]
    if label is not None:
        labelled, _ = to_ras(convert_to_numpy(label).astype(np.float32), affine)

    tumour = predicted[0] > threshold
    if not tumour.any() and len(labelled):
        tumour = labelled[0] > 0.5
    greys, bodies = zip(*(_grey(channel, window) for channel in images), strict=True)
    # Air round the head is cut off; a region outside the head must stay in the picture.
    box = bounding_box(np.any(bodies, axis=0) | tumour, margin=6) or tuple(slice(0, n) for n in tumour.shape)
    start = [part.start for part in box]
    ras[:3, 3] += ras[:3, :3] @ start
    return _Scene(
        [grey[box] for grey in greys],
        [field[box] for field in predicted],
        [mask[box] for mask in labelled],
        largest_sections(tumour[box]),
        ras,
    )


def _caption(scene: _Scene, plane: Plane, channel: str) -> str:
    """Names a picture: its channel, its plane, and where the plane lies in the patient."""
    millimetre = (scene.affine @ [*scene.centre, 1.0])[plane.axis]
    return f"{channel} {plane.name}".strip() + f"\n{'xyz'[plane.axis]} = {millimetre:.0f} mm"


def _lay_out(scene: _Scene) -> tuple[Figure, list[list[Axes]]]:
    """Returns an empty figure and its axes: a row a channel, a column a plane, all of one scale, in millimetres."""
    make_figure, _ = optional_import("matplotlib.figure", name="Figure", descriptor=_NEEDED)
    canvas, _ = optional_import("matplotlib.backends.backend_agg", name="FigureCanvasAgg", descriptor=_NEEDED)
    gap, head, width, highest = 0.06, 0.54, 14.0, 6.0  # inches
    widths, heights = np.array([scene.sides(plane) for plane in PLANES]).T
    tall = heights.max()
    scale = min((width - gap * (len(PLANES) + 1)) / widths.sum(), highest / tall)  # inches a millimetre
    height = (tall * scale + gap) * len(scene.greys) + head
    figure = make_figure(figsize=(width, height), facecolor=_BACKGROUND)
    canvas(figure)
    margin = (width - scale * widths.sum() - gap * (len(PLANES) - 1)) / 2
    lefts = margin + scale * (np.cumsum(widths) - widths) + gap * np.arange(len(PLANES))
    rows = []
    for row in range(len(scene.greys)):
        bottom = height - head - scale * tall - row * (scale * tall + gap)
        places = zip(lefts / width, scale * widths / width, strict=True)
        rows.append([figure.add_axes((x, bottom / height, w, scale * tall / height)) for x, w in places])
        for axes, own in zip(rows[-1], heights, strict=True):
            axes.set(facecolor="black", xticks=[], yticks=[], ylim=((own - tall) / 2, (own + tall) / 2))
            axes.spines[:].set_visible(False)
    return figure, rows


def draw_overlay(
    image: NdarrayOrTensor,
    prediction: NdarrayOrTensor,
    affine: NdarrayOrTensor,
    label: NdarrayOrTensor | None = None,
    case: str = "",
    regions: Sequence[str] = ("WT", "TC", "ET"),
    channel_names: Sequence[str] | None = None,
    window: tuple[float, float] | None = None,
    threshold: float = 0.5,
) -> Figure:
    """Draws predicted regions over the image, a row a channel, in the axial, coronal and sagittal plane.

    Slices go through the largest section of the outermost predicted region (of the label where nothing is predicted,
    the middle where neither is). Radiological convention whatever the array's orientation: the patient's right is on
    the viewer's left, the front and the head are up; in the sagittal picture the patient looks to the left. Predictions
    are filled and outlined in colour, the label is outlined in dashed white.

    Args:
        image: the channels to be shown `[C, H, W, D]`.
        prediction: probabilities or binary `[R, H, W, D]`.
        affine: voxel indices to RAS millimetres `[4, 4]`, of all three.
        label: binary `[R, H, W, D]`.
        case: the title.
        regions: name of each channel of the prediction.
        channel_names: name of each channel of the image.
        window: intensities shown black and white; None takes the 0.5th and 99.7th percentile within the body.
        threshold: a predicted region holds the voxels above it.

    Returns:
        A matplotlib figure with an Agg canvas, outside pyplot's state; `figure.savefig(path)` writes it.
    """
    matrix = convert_to_numpy(affine).astype(np.float64)
    scene = _scene(image, prediction, label, matrix, window, threshold)
    figure, rows = _lay_out(scene)
    for row, grey, channel in zip(rows, scene.greys, channel_names or [""] * len(rows), strict=True):
        for axes, plane in zip(row, PLANES, strict=True):
            pictures = [
                [plane.cut(volume, scene.centre[plane.axis]) for volume in volumes]
                for volumes in ([grey], scene.predicted, scene.labelled)
            ]
            _draw_panel(axes, pictures[0][0], pictures[1], pictures[2], threshold, scene.sides(plane))
            _mark(axes, plane, _caption(scene, plane, channel))
    unit = voxel_millilitres(matrix)
    sides = [(convert_to_numpy(prediction), threshold)] + ([] if label is None else [(convert_to_numpy(label), 0.5)])
    _legend(figure, case, regions, [[np.count_nonzero(m > level) * unit for m in masks] for masks, level in sides])
    return figure

"""Drawing regions over an image in three planes, as a radiologist holds it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from monai.config import NdarrayOrTensor
from monai.utils import convert_to_numpy, optional_import

from custom_nets.io.colours import COLOURS
from custom_nets.transforms.regions import check_names
from custom_nets.transforms.saving.meshes import as_array, bounding_box, region_in_box
from custom_nets.transforms.saving.volumes import voxel_millilitres

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BACKGROUND = "#0b0d10"
_TEXT = "#e8eaed"
_FAINT = "#9aa0a6"
_LABEL = "#ffffff"
_MARGIN = 6
"""Voxels of air left round the body."""
_SAMPLE = 2**22
"""Voxels that are enough for the percentiles of a channel."""

_NEEDED = "{}; overlays need matplotlib: pip install matplotlib"


@dataclass(frozen=True)
class Plane:
    """An anatomical plane, as it is cut from a RAS+ array and shown.

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
        plane = volume[(slice(None),) * self.axis + (index,)]  # np.take would copy the volume
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
        A view of the volumes `[C, R, A, S]`, and their affine `[4, 4]`.
    """
    io_orientation, _ = optional_import("nibabel.orientations", name="io_orientation")
    apply_orientation, _ = optional_import("nibabel.orientations", name="apply_orientation")
    inv_ornt_aff, _ = optional_import("nibabel.orientations", name="inv_ornt_aff")
    orientation = io_orientation(affine)
    turned = np.moveaxis(apply_orientation(np.moveaxis(volumes, 0, -1), orientation), -1, 0)
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


class _Channel(NamedTuple):
    """One channel of the image.

    Args:
        volume: intensities `[R, A, S]`.
        window: intensities shown black and white.
        air: the intensity of the surroundings, shown black; None where the window tells what is.
    """

    volume: np.ndarray
    window: tuple[float, float]
    air: float | None

    def body(self, values: np.ndarray) -> np.ndarray:
        """Returns where intensities are not those of the surrounding air."""
        mask: np.ndarray = values > self.window[0] if self.air is None else values != self.air
        return mask

    def grey(self, values: np.ndarray) -> np.ndarray:
        """Scales intensities to 0..1 (float32)."""
        low, high = self.window
        scaled = np.clip((values - low) / max(high - low, 1e-6), 0, 1)
        return np.where(self.body(values), scaled, np.float32(0))


def _channel(volume: np.ndarray, window: Sequence[float] | None) -> _Channel:
    """Chooses the window of a channel `[R, A, S]` where none is given."""
    if window is not None:
        return _Channel(volume, (float(window[0]), float(window[1])), None)
    # Normalised images have a background of 0 amid negative values: the corner tells what the surroundings hold.
    air = volume[0, 0, 0]
    step = math.ceil((volume.size / _SAMPLE) ** (1 / 3))
    sample = volume[::step, ::step, ::step]
    body = sample[sample != air].astype(np.float32)
    low, high = np.percentile(body, (0.5, 99.7)) if body.size else (0.0, 1.0)
    return _Channel(volume, (float(low), float(high)), air)


def _colour(region: int, opacity: float = 1.0) -> tuple[float, float, float, float]:
    """Returns the RGBA colour of a region channel."""
    to_rgba, _ = optional_import("matplotlib.colors", name="to_rgba", descriptor=_NEEDED)
    return to_rgba(COLOURS[region % len(COLOURS)], opacity)


def _mark(axes: Axes, plane: Plane, caption: str) -> None:
    """Writes direction letters, the caption, and a bar of 5 cm, outlined so that they can be read on the body too."""
    stroke, _ = optional_import("matplotlib.patheffects", name="withStroke", descriptor=_NEEDED)
    outlined: dict[str, Any] = {"path_effects": [stroke(linewidth=2.5, foreground=_BACKGROUND)]}
    places = [(0.015, 0.5, "left", "center"), (0.985, 0.5, "right", "center")]
    places += [(0.5, 0.985, "center", "top"), (0.5, 0.015, "center", "bottom")]
    for letter, (x, y, ha, va) in zip(plane.letters, places, strict=True):
        style: dict[str, Any] = {"color": _FAINT, "fontsize": 10, "fontweight": "bold", "ha": ha, "va": va}
        axes.text(x, y, letter, transform=axes.transAxes, **style, **outlined)
    axes.text(0.015, 0.985, caption, transform=axes.transAxes, color=_TEXT, fontsize=9, ha="left", va="top", **outlined)
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    if right - left > 80:
        end, level = right - 0.03 * (right - left), low + 0.025 * (high - low)
        bar: dict[str, Any] = {"color": _FAINT, "linewidth": 2, "solid_capstyle": "butt", "scalex": False}
        axes.plot([end - 50, end], [level, level], **bar, **outlined)
        above = level + 0.01 * (high - low)
        axes.text(end - 25, above, "5 cm", color=_FAINT, fontsize=7, ha="center", va="bottom", **outlined)


def _draw_panel(axes: Axes, grey: np.ndarray, regions: _Slice, sides: tuple[float, float]) -> None:
    """Draws one picture: `grey` is `[rows, columns]`, `sides` its width and height in millimetres."""
    collection, _ = optional_import("matplotlib.collections", name="PathCollection", descriptor=_NEEDED)
    extent = (0.0, sides[0], 0.0, sides[1])
    limits = axes.get_ylim()
    axes.imshow(grey, cmap="gray", vmin=0, vmax=1, interpolation="bicubic", extent=extent, aspect="auto")
    axes.imshow(regions.filled, interpolation="nearest", extent=extent, aspect="auto")
    lines = [(paths, {"edgecolors": _colour(r), "linewidths": 1.3}) for r, paths in enumerate(regions.predicted)]
    dashed = {"edgecolors": _LABEL, "linewidths": 0.9, "linestyles": "dashed"}
    for paths, style in [*lines, *((paths, dashed) for paths in regions.labelled)]:
        axes.add_collection(collection(paths, facecolors="none", zorder=2, **style), autolim=False)
    axes.set(xlim=(0, sides[0]), ylim=limits)


def _legend(figure: Figure, case: str, regions: Sequence[str], millilitres: Sequence[Sequence[float]]) -> None:
    """Writes the case and, for each region, its colour and its predicted (and labelled) volume above the pictures."""
    line, _ = optional_import("matplotlib.lines", name="Line2D", descriptor=_NEEDED)
    patch, _ = optional_import("matplotlib.patches", name="Patch", descriptor=_NEEDED)
    predicted, labelled = millilitres
    handles = [patch(facecolor=_colour(r, opacity=0.45), edgecolor=_colour(r)) for r in range(len(regions))]
    texts = [f"{region}  {ml:.1f} ml" for region, ml in zip(regions, predicted, strict=True)]
    if labelled:
        texts = [f"{text} (label {ml:.1f})" for text, ml in zip(texts, labelled, strict=True)]
        handles.append(line([], [], color=_LABEL, linewidth=1, linestyle="dashed"))
        texts.append("label")
    middle = 1 - 0.27 / figure.get_figheight()  # of the band above the pictures
    title = figure.text(0.008, middle, case.encode(errors="replace").decode(), color=_TEXT, ha="left", va="center")
    title.set(fontsize=14, fontweight="bold", parse_math=False)  # a name may hold a dollar
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
    """Everything that is drawn, turned to RAS+ and cut to the body: views of what was given.

    Args:
        channels: of the image, each `[R, A, S]`.
        predicted: one field `[R, A, S]` a region.
        labelled: one mask `[R, A, S]` a region; empty without a label.
        centre: the slice shown across each axis.
        affine: voxel indices of these arrays to RAS millimetres `[4, 4]`.
    """

    channels: Sequence[_Channel]
    predicted: Sequence[np.ndarray]
    labelled: Sequence[np.ndarray]
    centre: tuple[int, int, int]
    affine: np.ndarray

    def sides(self, plane: Plane) -> tuple[float, float]:
        """Returns the width and height in millimetres of a plane's pictures."""
        sides = np.asarray(self.channels[0].volume.shape) * np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(sides[plane.across]), float(sides[plane.up])


def _frame(boxes: Sequence[tuple[slice, ...]], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Returns the box round all boxes, with a margin; the whole volume where there are none."""
    if not boxes:
        return tuple(slice(0, side) for side in shape)
    return tuple(
        slice(max(min(part.start for part in parts) - _MARGIN, 0), max(part.stop for part in parts) + _MARGIN)
        for parts in zip(*boxes, strict=True)
    )


def _scene(
    image: NdarrayOrTensor,
    prediction: NdarrayOrTensor,
    label: NdarrayOrTensor | None,
    affine: np.ndarray,
    window: Sequence[float] | None,
    threshold: float,
    focus: int,
) -> _Scene:
    """Prepares what `draw_overlay` draws."""
    images, ras = to_ras(as_array(image), affine)
    predicted, _ = to_ras(as_array(prediction), affine)
    labelled = predicted[:0] if label is None else to_ras(as_array(label), affine)[0]
    channels = [_channel(volume, window) for volume in images]

    sides = [(predicted, threshold), (labelled, 0.5)]
    asked = [
        region_in_box(fields[r], level) for r in dict.fromkeys((focus, 0)) for fields, level in sides if len(fields)
    ]
    found = [(mask, box) for mask, box in asked if mask.size]
    # Air round the body is cut off; a region outside the body must stay in the picture.
    bodies = [bounding_box(channel.volume, inside=channel.body) for channel in channels]
    frame = _frame([box for box in bodies if box is not None] + [box for _, box in found], predicted[0].shape)
    start = [side.start for side in frame]
    mask, box = found[0] if found else (np.zeros(predicted[0][frame].shape, dtype=bool), frame)
    centre = [index + part.start - first for index, part, first in zip(largest_sections(mask), box, start, strict=True)]
    ras[:3, 3] += ras[:3, :3] @ start
    return _Scene(
        [channel._replace(volume=channel.volume[frame]) for channel in channels],
        [field[frame] for field in predicted],
        [field[frame] for field in labelled],
        (centre[0], centre[1], centre[2]),
        ras,
    )


def _fill(masks: Sequence[np.ndarray]) -> np.ndarray:
    """Paints nested masks `[rows, columns]` as one RGBA picture (uint8), inner regions over outer ones."""
    painted = np.zeros((*masks[0].shape, 4), dtype=np.uint8)
    for r, mask in enumerate(masks):
        painted[mask] = np.round(255 * np.array(_colour(r, opacity=0.26)))
    return painted


def _outline(field: np.ndarray, level: float, sides: tuple[float, float]) -> list[Any]:
    """Returns matplotlib's paths along which a field `[rows, columns]` crosses a level, in millimetres.

    These are the lines of `Axes.contour`, whose colour maps and scales take several times as long as the lines.

    Args:
        field: first row uppermost.
        level: of the lines.
        sides: width and height of the picture in millimetres.
    """
    contour_generator, _ = optional_import("contourpy", name="contour_generator", descriptor=_NEEDED)
    path, _ = optional_import("matplotlib.path", name="Path", descriptor=_NEEDED)
    if min(field.shape) < 2 or not field.min() <= level < field.max():  # a line of voxels has no outline
        return []
    (width, height), (rows, columns) = sides, field.shape
    x = (np.arange(columns) + 0.5) * (width / columns)
    y = (np.arange(rows)[::-1] + 0.5) * (height / rows)
    lines, codes = contour_generator(x, y, field, name="serial", line_type="SeparateCode").lines(level)
    return [path(line, code) for line, code in zip(lines, codes, strict=True)]


class _Slice(NamedTuple):
    """One plane through the regions: what all channels show of them.

    Args:
        filled: RGBA picture `[rows, columns, 4]` of the predicted regions, uint8.
        predicted: the outlines of each predicted region, see `_outline`.
        labelled: those of each labelled region.
    """

    filled: np.ndarray
    predicted: Sequence[list[Any]]
    labelled: Sequence[list[Any]]


def _cut_regions(scene: _Scene, plane: Plane, threshold: float) -> _Slice:
    sides, index = scene.sides(plane), scene.centre[plane.axis]
    predicted, labelled = (
        [plane.cut(volume, index).astype(np.float32) for volume in volumes]
        for volumes in (scene.predicted, scene.labelled)
    )
    return _Slice(
        _fill([field > threshold for field in predicted]),
        [_outline(field, threshold, sides) for field in predicted],
        [_outline(mask, 0.5, sides) for mask in labelled],
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
    height = (tall * scale + gap) * len(scene.channels) + head
    figure = make_figure(figsize=(width, height), facecolor=_BACKGROUND)
    canvas(figure)
    margin = (width - scale * widths.sum() - gap * (len(PLANES) - 1)) / 2
    lefts = margin + scale * (np.cumsum(widths) - widths) + gap * np.arange(len(PLANES))
    rows = []
    for row in range(len(scene.channels)):
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
    regions: Sequence[str],
    label: NdarrayOrTensor | None = None,
    case: str = "",
    channel_names: Sequence[str] | None = None,
    window: Sequence[float] | None = None,
    threshold: float = 0.5,
    focus: str | None = None,
) -> Figure:
    """Draws predicted regions over the image, a row a channel, in the axial, coronal and sagittal plane.

    Slices go through the largest section of the region in focus. Radiological convention whatever the array's
    orientation: the patient's right is on the viewer's left, the front and the head are up; in the sagittal picture the
    patient looks to the left. Predictions are filled and outlined in colour, the label is outlined in dashed white.
    Volumes are read where they lie; only the slices are copied.

    Args:
        image: the channels to be shown `[C, H, W, D]`.
        prediction: probabilities or binary `[R, H, W, D]`.
        affine: voxel indices to RAS millimetres `[4, 4]`, of all three.
        regions: name of each channel of the prediction.
        label: binary `[R, H, W, D]`.
        case: the title.
        channel_names: name of each channel of the image.
        window: intensities shown black and white; None takes the 0.5th and 99.7th percentile within the body.
        threshold: a predicted region holds the voxels above it.
        focus: the region through whose largest section the slices go; None takes the outermost. Where it is not
            predicted, that of the label is taken, then the outermost predicted, the label's, and the middle.

    Returns:
        A matplotlib figure with an Agg canvas, outside pyplot's state; `figure.savefig(path)` writes it.

    Raises:
        InputError: when `focus` is no region.
    """
    check_names([] if focus is None else [focus], regions)
    matrix = convert_to_numpy(affine).astype(np.float64)
    chosen = 0 if focus is None else list(regions).index(focus)
    scene = _scene(image, prediction, label, matrix, window, threshold, chosen)
    figure, rows = _lay_out(scene)
    regions_shown = [_cut_regions(scene, plane, threshold) for plane in PLANES]
    for row, channel, name in zip(rows, scene.channels, channel_names or [""] * len(rows), strict=True):
        for axes, plane, shown in zip(row, PLANES, regions_shown, strict=True):
            grey = channel.grey(plane.cut(channel.volume, scene.centre[plane.axis]).astype(np.float32))
            _draw_panel(axes, grey, shown, scene.sides(plane))
            _mark(axes, plane, _caption(scene, plane, name))
    unit = voxel_millilitres(matrix)
    _legend(
        figure,
        case,
        regions,
        [
            [np.count_nonzero(region_in_box(field, level)[0]) * unit for field in fields]
            for fields, level in ((scene.predicted, threshold), (scene.labelled, 0.5))
        ],
    )
    return figure

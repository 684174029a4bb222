"""Tissues of a synthetic abdomen on the voxels of a scan, from the skin inwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from custom_nets.tools.phantoms.abdomen_anatomy import CAVA, CAVITY, KIDNEYS, WALL, Abdomen, Patient
from custom_nets.tools.phantoms.abdomen_grid import Box, Layer, ScanGrid
from custom_nets.tools.phantoms.abdomen_shapes import (
    Point,
    Tube,
    ball_depth,
    chain,
    column,
    column_depth,
    cut,
    resized,
    sheet_depth,
    smooth_minimum,
    tubes_depth,
)
from custom_nets.tools.phantoms.brain_anatomy import smooth_maximum
from custom_nets.tools.phantoms.smooth_fields import FloatArray

LUNG, FAT, SKIN, MUSCLE = -850.0, -100.0, 20.0, 55.0
SPINE = (0.0, -53.0)
LEFT_DOME: tuple[Point, Point] = ((-68, 0, 0), (66, 82, 80))
HEART: tuple[Point, Point] = ((-28, 36, 126), (58, 44, 40))
CHAMBERS: tuple[tuple[Point, Point], ...] = (((-48, 40, 124), (26, 30, 26)), ((0, 42, 120), (24, 28, 24)))
SPLEEN: tuple[Point, Point] = ((-100, -38, 18), (31, 43, 50))

AORTA = chain([(-14, -34, 190), (-14, -31, 60), (-10, -27, -60), (-5, -26, -190)], [12, 11, 9.5, 8.5])
MESENTERIC = [
    *chain([(12, 0, -24), (12, 14, -60), (6, 22, -130)], [5.5, 5, 3]),
    *chain([(-8, -16, -22), (-4, 8, -50), (0, 18, -130)], [4, 3.5, 2.5]),
    *chain([(-11, -18, -4), (-2, -2, 0), (18, 6, 0)], [4, 3.5, 2.5]),
]
SPLENIC_VEIN = chain([(12, 0, -22), (-30, -6, -6), (-74, -28, 12)], [5, 4.5, 4])
RENAL = [
    *chain([(19, -20, -48), (48, -42, -58)], [4.5, 4]),
    *chain([(10, -18, -40), (-14, -16, -42), (-48, -42, -46)], [4.5, 4, 4]),
]
PORTAL = chain([(12, 0, -22), (30, 8, 4), (36, 8, 14)], [7, 7, 6.5])
OESOPHAGUS = chain([(-4, -20, 190), (-8, -12, 90), (-22, -6, 70), (-50, 0, 56)], [8, 8, 8, 9])
PANCREAS = chain([(30, 14, -38), (16, 14, -22), (-18, 10, -12), (-72, -14, 6)], [14, 11, 9, 8])
STOMACH = chain([(-58, -4, 56), (-60, 22, 22), (-42, 42, -8), (-8, 44, -28), (22, 32, -24)], [36, 33, 26, 17, 10])
COLON = chain(
    [
        (104, -14, -190),
        (106, -4, -92),
        (84, 42, -84),
        (10, 68, -72),
        (-80, 52, -46),
        (-112, -2, -22),
        (-116, -20, -190),
    ],
    [24, 23, 18, 17, 17, 17, 15],
)


def tissue_layers(abdomen: Abdomen, grid: ScanGrid) -> Iterator[Layer]:
    """All healthy tissue of one body on a grid; each layer lies over those before it."""
    return TissueLayers(abdomen, grid).draw()


class TissueLayers:
    """The layers of one body on one grid.

    Args:
        abdomen: the body.
        grid: the voxels.
    """

    def __init__(self, abdomen: Abdomen, grid: ScanGrid) -> None:
        self.body = abdomen
        self.grid = grid
        self.everywhere = grid.find_box([-1e4] * 3, [1e4] * 3)
        self.template = abdomen.to_template(grid.sites())
        self.cavity = abdomen.cavity_depth(self.template)
        self.liver_box = abdomen.find_box(grid, (-90, -90, -90), (145, 95, 105))
        self.liver = np.full_like(self.cavity, -99)
        part = cut(self.template, self.liver_box)
        self.liver[self.liver_box] = abdomen.liver_depth(grid.sites(self.liver_box), part)

    def draw(self) -> Iterator[Layer]:
        """Draws layer after layer."""
        yield from self._wall()
        yield from self._chest()
        yield from self._bowel()
        yield from self._organs()
        yield from self._spine()
        yield from self._liver()

    def _wall(self) -> Iterator[Layer]:
        box, cavity = self.everywhere, self.cavity
        x, y, z = self.template
        aside = np.abs(x)
        front = np.clip(y / 60, 0, 1)
        # Muscle is thicker at the flanks and parts in the midline of the belly; fat is thicker in front.
        uneven = np.float32(1.2) * self.grid.sites(box).sample(self.body.coarse)
        muscle = np.float32(WALL - 3) + aside / 30 + uneven
        outer = cavity + muscle + np.float32(self.body.patient.fat) * (1 + np.float32(0.004) * y)
        yield self.grid.layer(box, _table_depth(self.grid.sites().points, self.body.patient), -60)
        yield self.grid.layer(box, outer + 2, SKIN)
        yield self.grid.layer(box, outer, FAT)
        yield self.grid.layer(box, cavity + muscle - np.float32(7) * front * np.exp(-((x / 9) ** 2)), MUSCLE)
        plane = np.minimum(sheet_depth(cavity + np.float32(0.55) * muscle, 1.2), (aside - 70) / 10)
        yield self.grid.layer(box, np.minimum(plane, (np.float32(-20) - z) / 20), FAT)
        yield self.grid.layer(box, cavity, FAT)
        # Ribs run down to the front; the lowest ones end at the costal arch, the others at the sternum.
        steps = z + np.float32(0.5) * y - np.float32(0.1) * aside
        across = np.abs(steps - 26 * np.rint(steps / 26))
        bone = smooth_minimum(np.float32(3.6) - np.abs(cavity + 6), np.float32(5.5) - across, 3.0)
        arch = z - np.float32(0.55) * y + 60 - np.float32(0.8) * front * np.maximum(90 - aside, 0)
        bone = np.minimum(bone, arch / 3)
        sternum = np.minimum(np.float32(4.5) - np.abs(cavity + 6), np.minimum((18 - aside) / 2, (z - 84) / 3))
        bone = np.maximum(bone, np.minimum(sternum, y / 10))
        signals = self.body.patient.signals
        yield self.grid.layer(box, bone, signals["cortical"])
        yield self.grid.layer(box, bone - np.float32(1.4), signals["spongy"])

    def _chest(self) -> Iterator[Layer]:
        box = self.body.find_box(self.grid, (-140, -95, -110), (140, 95, 400))
        t, cavity, liver = cut(self.template, box), self.cavity[box], self.liver[box]
        x, y, z = t
        signals = self.body.patient.signals
        recess = z - np.float32(0.6) * y - np.float32(self.body.patient.recess)
        lung = np.minimum(cavity - 2, recess)
        yield self.grid.layer(box, lung, LUNG)
        first, second = (self.grid.sites(box).sample(field) for field in self.body.tubes)
        branches = np.minimum(np.float32(0.3) - np.hypot(first, second), lung * np.float32(0.05))
        yield self.grid.layer(box, branches, 0)
        middle = column_depth(x + 6, y + 12, 38, 66)
        yield self.grid.layer(box, np.minimum(middle, lung + 3), FAT)
        heart = ball_depth(t, *HEART) + self.grid.sites(box).sample(self.body.coarse)
        yield self.grid.layer(box, heart + 4, FAT)
        yield self.grid.layer(box, heart, signals["heart"] - 35)
        for centre, half_axes in CHAMBERS:
            yield self.grid.layer(box, np.minimum(ball_depth(t, centre, half_axes), heart - 3), signals["heart"])
        # The diaphragm wraps the liver, and a fatty dome on the left; behind the organs the lungs reach far down.
        dome = smooth_maximum(ball_depth(t, *LEFT_DOME), np.minimum(cavity - 11, (30 - z) / 2), 8.0)
        dome = smooth_maximum(dome, self.body.lobes_depth(t) - 9, 8.0)
        dome = np.maximum(dome, np.minimum(liver, recess + 12)) + self.grid.sites(box).sample(self.body.fine) / 2
        yield self.grid.layer(box, np.minimum(np.minimum(dome + 4, cavity), recess + 12), MUSCLE)
        yield self.grid.layer(box, np.minimum(np.minimum(dome + 1, cavity), recess + 15), FAT)

    def _bowel(self) -> Iterator[Layer]:
        signals, fluid = self.body.patient.signals, np.float32(self.body.patient.fluid)
        box = self.body.find_box(self.grid, (-140, -60, -400), (140, 95, 30))
        sites, part = self.grid.sites(box), cut(self.template, box)
        x, y, z = part
        # Loops of small bowel in front of the spine, below stomach and liver.
        room = np.minimum(self.cavity[box] - 8, y + 28 - np.float32(0.1) * np.abs(x))
        room = np.minimum(room, 4 - z - np.float32(0.35) * x) / 12
        loops = sites.sample(self.body.loops)
        yield self.grid.layer(box, np.minimum(loops - np.float32(0.1), room), signals["gut wall"])
        yield self.grid.layer(box, np.minimum(loops - np.float32(0.55), room - np.float32(0.3)), signals["gut"])
        gas = np.minimum(loops - np.float32(0.75), (y - fluid - 12) / 12)
        yield self.grid.layer(box, np.minimum(gas, room - np.float32(0.3)), -900)
        first, second = (sites.sample(field) for field in self.body.tubes)
        twigs = np.minimum(np.float32(0.14) - np.hypot(first, second), self.cavity[box] / 20 - np.float32(0.3))
        yield self.grid.layer(box, np.minimum(twigs, (np.float32(-20) - z) / 20), signals["vessel"])
        mottled = sites.sample(self.body.fine)
        colon = np.minimum(
            tubes_depth(COLON, part, 8.0) + 2 * sites.sample(self.body.coarse) + mottled, self.cavity[box] - 3
        )
        yield self.grid.layer(box, colon, signals["gut wall"])
        yield self.grid.layer(box, colon - 3, signals["colon"])
        yield self.grid.layer(box, np.minimum(colon - 4, 3 * mottled + (y - fluid) / 6), -850)

    def _organs(self) -> Iterator[Layer]:
        signals, moved = self.body.patient.signals, self.body.patient.organs
        yield from self._vessels(PANCREAS, signals["pancreas"], roughness=2.0)

        yield from self._vessels(OESOPHAGUS, MUSCLE)

        box = self.body.find_box(self.grid, (-115, -60, -60), (50, 90, 110))
        part = cut(self.template, box) - column(moved[0], self.template)
        inner = tubes_depth(STOMACH, resized(part, (-50, 20, 20), (self.body.patient.stomach,) * 3), 8.0)
        inner = np.minimum(inner, self.cavity[box] - 8)
        folds = self.grid.sites(box).sample(self.body.fine)
        inner = inner + np.float32(1.5) * self.grid.sites(box).sample(self.body.coarse)
        yield self.grid.layer(box, inner, signals["stomach wall"])
        yield self.grid.layer(box, inner - 4 + folds, signals["stomach"])
        yield self.grid.layer(
            box, np.minimum(inner - 4 + folds, self.template[1][box] - np.float32(self.body.patient.fluid)), -950
        )

        box = self.body.find_box(self.grid, (-145, -100, -60), (-50, 30, 90))
        part = cut(self.template, box) - column(moved[1], self.template)
        spleen = ball_depth(resized(part, SPLEEN[0], (self.body.patient.spleen,) * 3), *SPLEEN)
        spleen = smooth_minimum(spleen, -ball_depth(part, (-62, -22, 8), (26, 38, 60)), 8.0)
        spleen = spleen + self.grid.sites(box).sample(self.body.coarse)
        yield self.grid.layer(box, smooth_minimum(spleen, self.cavity[box] - 4, 6.0), signals["spleen"])

        for (centre, half_axes), move in zip(KIDNEYS, moved[2:], strict=True):
            reach = [a + 12 for a in half_axes]
            box = self.body.find_box(self.grid, np.subtract(centre, reach).tolist(), np.add(centre, reach).tolist())
            part = cut(self.template, box) - column(move * np.float32(0.6), self.template)
            side = 1.0 if centre[0] > 0 else -1.0
            # The upper pole lies closer to the spine.
            part[0] += np.float32(side * 0.18) * (part[2] - np.float32(centre[2]))
            whole = ball_depth(part, centre, half_axes) + np.float32(0.8) * self.grid.sites(box).sample(self.body.fine)
            sinus = ball_depth(part, (centre[0] - 15 * side, centre[1] + 5, centre[2]), (16, 9, 24))
            sinus = sinus + np.float32(2.5) * self.grid.sites(box).sample(self.body.fine)
            yield self.grid.layer(box, whole, signals["kidney"])
            yield self.grid.layer(box, sinus, FAT)
        for tubes, name in ((RENAL, "vessel"), (SPLENIC_VEIN, "vessel"), (MESENTERIC, "vessel"), (AORTA, "artery")):
            yield from self._vessels(tubes, signals[name])

    def _spine(self) -> Iterator[Layer]:
        signals = self.body.patient.signals
        box = self.body.find_box(self.grid, (-80, -140, -400), (80, -20, 400))
        x, y, z = cut(self.template, box)
        y = y - np.float32(SPINE[1])
        aside = np.abs(x)
        skin = self.cavity[box] + (WALL - 2)
        back = np.minimum(column_depth(aside - 30, y + 40, 29, 20), skin)
        psoas = column_depth(aside - 33, y, 15, 18) - np.float32(0.25) * np.maximum(z + 50, 0)
        yield self.grid.layer(box, np.maximum(back, psoas), MUSCLE)

        level = z / 34
        along = np.abs(level - np.rint(level)) * 34  # distance from the middle of the vertebra, which is 26 mm high
        waist = np.float32(2.0) * (1 - along / 13)
        body = column_depth(x, y, 22, 17) - np.maximum(waist, 0)
        vertebra = smooth_minimum(body, 13 - along, 3.0)
        canal = column_depth(x, y + 27, 11, 9)
        arch = np.minimum(canal + 6, 9 - along)
        spinous = np.minimum(np.minimum(4 - aside, np.minimum(-y - 36, skin)), 9 - np.abs(along - 4))
        transverse = np.minimum(np.minimum(38 - aside, 4 - np.abs(y + 26 + np.float32(0.15) * aside)), 6 - along)
        bone = np.maximum(np.maximum(vertebra, arch), np.maximum(spinous, transverse))
        yield self.grid.layer(box, body, signals["disc"])
        yield self.grid.layer(box, bone, signals["cortical"])
        yield self.grid.layer(box, bone - 2, signals["spongy"])
        yield self.grid.layer(box, canal, 15)
        yield self.grid.layer(box, canal - 4, 40)

    def _liver(self) -> Iterator[Layer]:
        signals = self.body.patient.signals
        box, liver = self.liver_box, self.liver[self.liver_box]
        yield self.grid.layer(box, liver, signals["liver"], 1)
        tree = np.full_like(liver, -9)
        for tube in self.body.trees:
            inner = _within(self._tube_box([tube]), box)
            if all(part.stop > part.start for part in inner):
                shifted = tuple(slice(p.start - q.start, p.stop - q.start) for p, q in zip(inner, box, strict=True))
                tree[shifted] = np.maximum(tree[shifted], tube.depth(cut(self.template, inner)))
        yield self.grid.layer(box, np.minimum(tree, liver - 2), signals["vessel"], None)
        yield from self._vessels(PORTAL, signals["vessel"], label=None)
        yield from self._vessels(CAVA, signals["vessel"] - 15)
        around = self.body.find_box(self.grid, (25, 12, -75), (75, 72, -10))
        bile = self.body.gallbladder_depth(cut(self.template, around))
        yield self.grid.layer(around, bile, 55)
        yield self.grid.layer(around, bile - 2, signals["bile"])

    def _vessels(
        self,
        tubes: Sequence[Tube],
        signal: float,
        *,
        roughness: float = 0.0,
        label: int | None = 0,
    ) -> Iterator[Layer]:
        box = self._tube_box(tubes)
        if any(part.stop - part.start < 2 for part in box):
            return
        depth = tubes_depth(tubes, cut(self.template, box))
        if roughness:
            depth = depth + np.float32(roughness) * self.grid.sites(box).sample(self.body.fine)
        yield self.grid.layer(box, depth, signal, label)

    def _tube_box(self, tubes: Sequence[Tube]) -> Box:
        ends = np.array([end for tube in tubes for end in (tube.start, tube.end)])
        radius = max(max(tube.radii) for tube in tubes)
        return self.body.find_box(self.grid, (ends.min(axis=0) - radius).tolist(), (ends.max(axis=0) + radius).tolist())


def _table_depth(points: FloatArray, patient: Patient) -> FloatArray:
    """Depth (mm) below the surface of the curved shell that the patient lies on."""
    x, y, _ = points
    back = (CAVITY[1] + WALL + 14 + 0.6 * patient.fat) * patient.scale[1]
    return np.minimum(sheet_depth(y + np.float32(back) - x * x / 900, 2.5), (200 - np.abs(x)) / 4)


def _within(inner: Box, outer: Box) -> Box:
    a, b, c = (slice(max(p.start, q.start), min(p.stop, q.stop)) for p, q in zip(inner, outer, strict=True))
    return a, b, c

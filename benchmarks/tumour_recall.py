"""Small liver tumours: which of them the surface search finds, by the steps of its lattices and by prior.

The search alone is measured. The network is replaced by one that knows the truth: its logits are the signed distances
(mm) to the surfaces of liver and tumours, its prior is the truth on a grid of 8 mm. A tumour that is not found was not
queried at; whether a trained network would see it is another question.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from _readme import refresh
from _report import RESULTS, commit, hardware
from _truth import TruthNetwork
from monai.data import MetaTensor
from monai.utils import optional_import
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import adaptive_max_pool3d

from custom_nets.inferers import OccupancyInferer, SearchSettings
from custom_nets.inferers.surface_search.lattice import coarse_axis
from custom_nets.tools import abdomen_phantom

DIAMETERS = (4, 6, 8, 10, 15)
"""Of the tumours, in mm."""

SURE = 6.0
"""Logit beyond which the network is not surer."""

CELL = 8.0
"""Grid of the prior, in mm."""

MARGIN = 12.0
"""Around the liver, in mm; beyond it nothing but the coarse lattice is queried."""

COARSE, CANDIDATES, MODES = (4.0, 6.0, 8.0), (None, 4.0, 3.0, 2.0), ("none", "union", "restrict")

PRIORS = ("true", "no tumours", "a fifth missed, scattered", "a fifth missed, one side")
"""What the prior holds of the liver's cells; that of the liver alone, without its tumours, is the second."""


class Setting(NamedTuple):
    """How the search is set up: lengths in mm, `mode` is what the prior is used for, `prior` what it holds."""

    coarse: float
    candidate: float | None
    mode: str
    prior: str = "true"


SETTINGS = [
    *itertools.starmap(Setting, itertools.product(COARSE, CANDIDATES, MODES)),
    *itertools.starmap(Setting, itertools.product((4.0, 8.0), (None, 2.0), MODES[1:], PRIORS[1:])),
]

SHOWN = [
    Setting(8, None, "none"),
    Setting(6, None, "none"),
    Setting(4, None, "none"),
    Setting(8, None, "union"),
    Setting(4, None, "union"),
    Setting(4, None, "restrict"),
    Setting(4, None, "restrict", "no tumours"),
    Setting(4, None, "restrict", "a fifth missed, one side"),
    Setting(4, 2, "restrict", "a fifth missed, one side"),
    Setting(4, 2, "restrict"),
    Setting(4, 3, "none"),
    Setting(4, 2, "none"),
    Setting(8, 3, "none"),
    Setting(8, 2, "none"),
]
"""The rows of the table; the JSON file has all."""


@dataclass(frozen=True)
class Case:
    """One phantom, cut to its liver.

    Attributes:
        image: zeros `[1, 1, H, W, D]` with the affine.
        logits: of liver and tumour `[2, H, W, D]`.
        priors: logits `[1, 2, h, w, d]` by name.
        pieces: number of the tumour that each voxel belongs to `[H, W, D]`; 0 for none.
        diameters: mm, of each tumour.
        scan: voxels of the whole scan.
        spacing: mm.
    """

    image: MetaTensor
    logits: Tensor
    priors: dict[str, Tensor]
    pieces: NDArray[np.int32]
    diameters: NDArray[np.int64]
    scan: tuple[int, ...]
    spacing: tuple[float, ...]


def make_case(seed: int, number: int, spacing: Sequence[float], tumours: int) -> Case:
    """One case, with so many tumours of each diameter."""
    phantom = abdomen_phantom(seed, number, spacing, DIAMETERS * tumours)
    sides = tuple(float(side) for side in np.linalg.norm(phantom.affine[:3, :3], axis=0))
    liver = ndimage.find_objects((phantom.label > 0).astype(np.uint8))[0]
    box = tuple(
        slice(max(0, part.start - math.ceil(MARGIN / side)), part.stop + math.ceil(MARGIN / side))
        for part, side in zip(liver, sides, strict=True)
    )
    regions = np.stack([phantom.label[box] > 0, phantom.label[box] == 2])
    affine = phantom.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [part.start for part in box]
    distances = [
        ndimage.distance_transform_edt(region, sides) - ndimage.distance_transform_edt(~region, sides)
        for region in regions
    ]
    pieces, count = ndimage.label(regions[1], np.ones((3, 3, 3)))
    balls = (6 / np.pi * np.prod(sides) * np.bincount(pieces.ravel(), minlength=count + 1)[1:]) ** (1 / 3)
    return Case(
        image=MetaTensor(torch.zeros(1, 1, *regions.shape[1:]), affine=torch.from_numpy(affine)),
        logits=torch.from_numpy(np.stack(distances)).float().clamp(-SURE, SURE),
        priors=make_priors(regions, sides, np.random.default_rng(number)),
        pieces=pieces,
        diameters=np.array(DIAMETERS)[np.abs(balls[:, None] - DIAMETERS).argmin(axis=1)],
        scan=phantom.label.shape,
        spacing=sides,
    )


def make_priors(regions: NDArray, sides: Sequence[float], rng: np.random.Generator) -> dict[str, Tensor]:
    """The priors of `PRIORS`, as logits `[1, 2, h, w, d]`."""
    shape = [max(1, round(n * side / CELL)) for n, side in zip(regions.shape[1:], sides, strict=True)]
    cells = adaptive_max_pool3d(torch.from_numpy(regions).float(), shape) > 0
    liver = cells[0].nonzero()  # ordered along the first axis
    fifth = len(liver) // 5
    missed = {PRIORS[2]: liver[torch.from_numpy(rng.permutation(len(liver))[:fifth])], PRIORS[3]: liver[:fifth]}
    held = {name: cells.clone() for name in PRIORS}
    held[PRIORS[1]][1] = False
    for name, indices in missed.items():
        rows, columns, slices = indices.T
        held[name][:, rows, columns, slices] = False
    return {name: torch.where(mask, SURE, -SURE)[None] for name, mask in held.items()}


def search(case: Case, setting: Setting) -> dict[str, Any]:
    """Runs one setting on one case: what was found, and what it took."""
    steps = SearchSettings(
        coarse_step=setting.coarse, candidate_step=setting.candidate, step_unit="mm", prior=setting.mode
    )
    inferer = OccupancyInferer(steps, points_per_chunk=1 << 20)
    result = inferer(case.image, TruthNetwork(case.logits, case.priors[setting.prior]))[0].numpy() > 0.5
    voxels = np.bincount(case.pieces.ravel())[1:]
    hits = np.bincount(case.pieces[result[1]], minlength=len(voxels) + 1)[1:]
    stages = inferer.stats.queries_per_stage
    outside = 0
    if setting.mode != "restrict":
        outside = lattice_points(case.scan, case, setting) - lattice_points(case.pieces.shape, case, setting)
    found = {f"{d} mm": int((hits[case.diameters == d] > 0).sum()) for d in DIAMETERS}
    return found | {
        "partly found": int(((hits > 0) & (hits < voxels)).sum()),
        "wrong liver voxels": int((result[0] != (case.logits[0].numpy() > 0)).sum()),
        "wrong voxels beside the tumours": int((result[1] & (case.pieces == 0)).sum()),
        "queries": inferer.stats.queries + outside,
        "lattice": stages["lattice"] + outside,
        "candidates": stages.get("candidates", 0),
    }


def lattice_points(shape: Sequence[int], case: Case, setting: Setting) -> int:
    """Points of the coarse lattice in a volume of so many voxels."""
    steps = voxel_steps(setting.coarse, case.spacing)
    return math.prod(len(coarse_axis(n, step, torch.device("cpu"))) for n, step in zip(shape, steps, strict=True))


def voxel_steps(step: float, spacing: Sequence[float]) -> list[int]:
    """A step in whole voxels along each axis, as the inferer rounds it."""
    return [max(1, round(step / side)) for side in spacing]


def guaranteed_diameter(setting: Setting, spacing: Sequence[float]) -> float:
    """Diameter (mm) from which every ball inside the liver holds a queried point: the diagonal of a lattice's cell.

    Of the lattices that cover the whole liver, the finest counts. A prior that misses cells covers nothing surely; the
    candidates cover the liver even then, because its surface is followed to the end.
    """
    trusted = setting.prior in PRIORS[:2]  # the liver's cells count as the prior region, not the tumours' alone
    lattices = []
    if setting.candidate is not None:
        lattices.append(voxel_steps(setting.candidate, spacing))
    if setting.mode != "restrict" or trusted:
        lattices.append(voxel_steps(setting.coarse, spacing))
    if setting.mode == "union" and trusted:
        lattices.append([math.ceil(step / 2) for step in voxel_steps(setting.coarse, spacing)])
    diagonals = [math.hypot(*np.multiply(steps, spacing)) for steps in lattices]
    return min(diagonals, default=math.inf)


def chance(diameter: float, step: float, samples: int = 96) -> float:
    """How likely a ball, placed at random, holds a point of a cubic lattice."""
    to_plane = (np.arange(samples) + 0.5) * step / samples
    squares = np.minimum(to_plane, step - to_plane) ** 2
    nearest = squares[:, None, None] + squares[:, None] + squares
    return float((nearest <= diameter**2 / 4).mean())


def summarise(setting: Setting, outcomes: Sequence[Mapping[str, Any]], cases: Sequence[Case]) -> dict[str, Any]:
    """One row: what was found in all cases, and the queries of a case."""
    totals = {key: sum(outcome[key] for outcome in outcomes) for key in outcomes[0]}
    queries = totals.pop("queries")
    row = {**setting._asdict(), **totals}
    row["found"] = sum(totals[f"{d} mm"] for d in DIAMETERS) / sum(len(case.diameters) for case in cases)
    bound = max(guaranteed_diameter(setting, case.spacing) for case in cases)
    row["guaranteed from mm"] = None if bound == math.inf else bound
    row["queries a case"] = queries / len(cases)
    row["share of dense"] = queries / sum(math.prod(case.scan) for case in cases)
    for stage in ("lattice", "candidates"):
        row[f"share of {stage}"] = totals[stage] / queries
        del row[stage]
    return row


def table(rows: Sequence[Mapping[str, Any]], totals: Mapping[int, int]) -> Iterator[str]:
    """The rows that are shown, as markdown."""
    sizes = [f"{d} mm (of {n})" for d, n in totals.items()]
    columns = ["coarse step, mm", "candidate step, mm", "prior", *sizes, "guaranteed from, mm"]
    columns += ["queries a case, thousands", "of dense", "candidates among them"]
    yield f"| {' | '.join(columns)} |"
    yield f"|{' --- |' * len(columns)}"
    for row in rows:
        bound = row["guaranteed from mm"]
        prior = row["mode"] if row["prior"] == "true" else f"{row['mode']}; {row['prior']}"
        cells = [f"{row['coarse']:g}", "none" if row["candidate"] is None else f"{row['candidate']:g}", prior]
        cells += [f"**{row[f'{d} mm']}**" if bound and d >= bound else str(row[f"{d} mm"]) for d in DIAMETERS]
        cells += [f"{bound:.1f}" if bound else "-", f"{row['queries a case'] / 1000:.0f}"]
        cells += [f"{row['share of dense']:.2%}", f"{row['share of candidates']:.0%}"]
        yield f"| {' | '.join(cells)} |"


def chances(steps: Sequence[float]) -> Iterator[str]:
    """What a single lattice finds by chance, as markdown."""
    yield f"| step, mm | {' | '.join(f'{d} mm' for d in DIAMETERS)} | guaranteed from, mm |"
    yield f"|{' --- |' * (len(DIAMETERS) + 2)}"
    for step in steps:
        cells = [f"{chance(d, step):.0%}" for d in DIAMETERS]
        yield f"| {step:g} | {' | '.join(cells)} | {step * math.sqrt(3):.1f} |"


def draw(path: Path, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Draws recall of the smallest tumours against queries, a point a setting with a true prior."""
    figure_module, found = optional_import("matplotlib.figure")
    if not found:
        return
    figure = figure_module.Figure(figsize=(12, 6.5), layout="constrained")
    colours = dict(zip(COARSE, ("#D55E00", "#009E73", "#0072B2"), strict=True))
    panels = figure.subplots(2, len(MODES), sharex=True, sharey=True)
    for axes, (key, mode) in zip(panels.flat, itertools.product(DIAMETERS[:2], MODES), strict=True):
        for coarse, colour in colours.items():
            line = [row for row in rows if row["prior"] == PRIORS[0] and (row["mode"], row["coarse"]) == (mode, coarse)]
            points = [(row["queries a case"] / 1000, row[f"recall {key} mm"]) for row in line]
            axes.plot(*zip(*points, strict=True), "o-", color=colour, label=f"coarse step {coarse:g} mm", linewidth=0.8)
            for row, point in zip(line, points, strict=True):
                text, below = ("no", True) if row["candidate"] is None else (f"{row['candidate']:g}", False)
                style = {"fontsize": 8, "color": colour, "ha": "center"}
                axes.annotate(text, point, xytext=(0, -13 if below else 6), textcoords="offset points", **style)
        axes.set(ylim=(-0.12, 1.15), title=f"{key} mm, prior {mode}")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0, -1].legend(fontsize=8, loc="lower right", title="numbers: candidate step, mm", title_fontsize=8)
    figure.supxlabel("queries a case, thousands", fontsize=10)
    figure.supylabel("share of the tumours found", fontsize=10)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--cases", type=int, default=10)
    parser.add_argument("--tumours", type=int, default=6, help="of each diameter, in each case")
    parser.add_argument("--spacing", type=float, nargs=3, default=(1.0, 1.0, 1.0), help="mm")
    parser.add_argument("--seed", type=int, default=0, help="of the phantoms")
    parser.add_argument("--name", default="tumour_recall", help="of the result files")
    options = parser.parse_args()
    torch.set_num_threads(1)

    cases, outcomes = [], []
    for number in range(1, options.cases + 1):
        start = time.perf_counter()
        case = make_case(options.seed, number, options.spacing, options.tumours)
        made = time.perf_counter() - start
        cases.append(case)
        outcomes.append([search(case, setting) for setting in SETTINGS])
        print(f"case {number}: made in {made:.0f} s, {time.perf_counter() - start:.0f} s in all", flush=True)
    totals = {d: int(sum((case.diameters == d).sum() for case in cases)) for d in DIAMETERS}
    rows = [
        summarise(s, of_setting, cases) for s, of_setting in zip(SETTINGS, zip(*outcomes, strict=True), strict=True)
    ]
    for row in rows:
        row |= {f"recall {d} mm": row[f"{d} mm"] / max(n, 1) for d, n in totals.items()}
    wrong = {key: sum(row[key] for row in rows) for key in rows[0] if key.startswith(("partly", "wrong"))}

    title = (
        f"Tumours found by the surface search in {options.cases} phantoms of {' x '.join(map(str, options.spacing))} "
        f"mm, by a network that knows the truth"
    )
    shown = [row for setting in SHOWN for row in rows if Setting(*(row[key] for key in Setting._fields)) == setting]
    lines = [
        f"{title}. {hardware()}, {date.today()}, commit {commit()}.",
        "",
        *table(shown, totals),
        "",
        "Bold: guaranteed. A ball always holds a point of a cubic lattice when its diameter is at least the diagonal",
        "of a cell, step x sqrt(3), here of the finest lattice that surely covers the liver; a tumour that holds an",
        f"queried voxel is found whole. Over all {len(rows)} settings: "
        f"{', '.join(f'{key} {n}' for key, n in wrong.items())}. Queries",
        "and dense are those of the whole scan; far from the liver only the coarse lattice is queried.",
        "",
        "Chance that a single lattice holds a point of a ball placed at random (no candidates, no prior):",
        "",
        *chances(sorted({*COARSE, *(step for step in CANDIDATES if step)}, reverse=True)),
    ]
    print("\n".join(lines))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{options.name}.md").write_text("\n".join(lines) + "\n")
    facts: dict[str, Any] = {"title": title, "hardware": hardware(), "date": str(date.today()), "commit": commit()}
    facts |= {"tumours": totals, "rows": rows}
    (RESULTS / f"{options.name}.json").write_text(json.dumps(facts, indent=2) + "\n")
    draw(RESULTS / f"{options.name}.png", rows, title)
    refresh()


if __name__ == "__main__":
    main()

"""Lesions that the auxiliary head misses: which of them the search still finds, by how the prior is used.

Brains of 160x192x160 voxels with twenty balls of five diameters each, and a network that knows the truth; its prior, on
cells of eight voxels, is the truth without a share of the lesions. A lesion counts as found when any of its voxels is.
"""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

import numpy as np
import torch
from _report import report
from _truth import TruthNetwork
from torch import Tensor
from torch.nn.functional import adaptive_max_pool3d

from custom_nets.inferers import OccupancyInferer, SearchSettings

SHAPE = (160, 192, 160)
CELLS = tuple(side // 8 for side in SHAPE)
DIAMETERS = (4, 6, 8, 12, 20)
SURE = 6.0
SEARCHES: dict[str, dict[str, Any]] = {
    "none, step 8": {"coarse_step": 8, "prior": "none"},
    "none, step 4": {"coarse_step": 4, "prior": "none"},
    "restrict, step 4": {"coarse_step": 4, "prior": "restrict"},
    "restrict, step 4, scan 16": {"coarse_step": 4, "prior": "restrict", "scan_step": 16},
    "restrict, step 4, scan 12": {"coarse_step": 4, "prior": "restrict", "scan_step": 12},
    "restrict, step 4, scan 8": {"coarse_step": 4, "prior": "restrict", "scan_step": 8},
    "restrict, step 2, scan 4": {"coarse_step": 2, "prior": "restrict", "scan_step": 4},
    "union, step 4": {"coarse_step": 4, "prior": "union"},
}


class Lesion(NamedTuple):
    """A ball: centre and diameter in voxels."""

    centre: np.ndarray
    diameter: int


def draw_lesions(rng: np.random.Generator, count: int) -> list[Lesion]:
    """Balls in an ellipsoid, `count` of each diameter, none touching another."""
    lesions: list[Lesion] = []
    middle, reach = np.array(SHAPE) / 2, np.array(SHAPE) * 0.45
    for diameter in sorted(DIAMETERS * count, reverse=True):
        while True:
            centre = middle + rng.uniform(-1, 1, 3) * reach
            inside = (((centre - middle) / (reach - diameter / 2)) ** 2).sum() < 1
            gaps = [np.linalg.norm(centre - o.centre) - (diameter + o.diameter) / 2 for o in lesions]
            if inside and min(gaps, default=9.0) > 3:
                lesions.append(Lesion(centre, diameter))
                break
    return lesions


def box_of(lesion: Lesion) -> tuple[tuple[slice, ...], Tensor]:
    """The voxels around a lesion and their signed distance to its surface."""
    reach = lesion.diameter / 2 + SURE + 1
    box = tuple(
        slice(max(0, int(c - reach)), min(side, int(c + reach) + 2))
        for c, side in zip(lesion.centre, SHAPE, strict=True)
    )
    axes = np.ogrid[box]
    squares = sum((axis - c) ** 2 for axis, c in zip(axes, lesion.centre, strict=True))
    return box, torch.from_numpy(lesion.diameter / 2 - np.sqrt(squares)).float()


def field_of(lesions: list[Lesion]) -> Tensor:
    """Signed distances `[1, H, W, D]`, as far as they are sure."""
    field = torch.full((1, *SHAPE), -SURE)
    for lesion in lesions:
        box, distance = box_of(lesion)
        field[0][box] = torch.maximum(field[0][box], distance.clamp(-SURE, SURE))
    return field


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10)
    parser.add_argument("--lesions", type=int, default=4, help="of each diameter and case")
    parser.add_argument("--missed", type=float, nargs="+", default=[0.0, 0.05, 0.1, 0.2])
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    image = torch.zeros(1, 1, 1, 1, 1).expand(1, 1, *SHAPE)
    every = [
        (draw_lesions(rng, options.lesions), rng.permutation(len(DIAMETERS) * options.lesions))
        for _ in range(options.cases)
    ]
    fields = [field_of(lesions) for lesions, _ in every]
    rows = []
    for missed in options.missed:
        for name, keys in SEARCHES.items():
            found = dict.fromkeys(DIAMETERS, 0)
            queries = 0
            for (lesions, order), field in zip(every, fields, strict=True):
                kept = [lesions[i] for i in order[round(missed * len(lesions)) :]]
                cells = adaptive_max_pool3d((field_of(kept) > 0).float(), CELLS)
                inferer = OccupancyInferer(SearchSettings(**keys))
                result = inferer(image, TruthNetwork(field, cells[None] * 2 * SURE - SURE))[0, 0] > 0.5
                queries += inferer.stats.queries
                for lesion in lesions:
                    box, distance = box_of(lesion)
                    found[lesion.diameter] += bool((result[box] & (distance > 0)).any())
            total = options.cases * options.lesions
            row: dict[str, Any] = {
                "row": f"{missed:.0%} missed; {name}",
                "head misses": f"{missed:.0%}",
                "search": name,
            }
            row |= {f"{d} mm": found[d] / total for d in DIAMETERS}
            row["recall"] = sum(found.values()) / (total * len(DIAMETERS))
            row["queries a case"] = round(queries / options.cases)
            row["voxels queried, %"] = 100 * row["queries a case"] / image.numel()
            rows.append(row)
            print(row, flush=True)
    report("prior_recall", f"Recall of {options.cases * options.lesions} lesions of each diameter", rows, "recall")


if __name__ == "__main__":
    main()

"""Points that a search queries, without any network: a ball in the volume, by search, first step, prior and size.

The first table has the volumes that the limits are set for, the second what happens when the resolution doubles: the
same ball in twice as many voxels a side. Every search must be right in every voxel.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from _ball import VOLUMES, BallNetwork, Volume
from _report import report

from custom_nets.inferers import OccupancyInferer, SearchSettings

PUBLISHED_PRIOR = {"brats": (8, 8, 5), "brats, large": (8, 8, 5)}
"""Grid of the auxiliary segmentation of OSS-Net C and D; 8 x 8 x 8 for cubes."""

LIMITS = {
    ("brats", 4): 40_000,
    ("brats", 8): 30_000,
    ("brats, large", 4): 82_000,
    ("brats, large", 8): 66_000,
    ("512", 8): 400_000,
}
"""Most points with the prior of C, by size and first step."""

GROWTH = ("64", "128", "256", "512")
MOST_GROWTH = 4.5


class Search(NamedTuple):
    """A search: its mode, its first step in voxels (0: the mode's own), its use of the prior, and whose prior."""

    mode: str
    step: int
    prior: str
    head: str = "OSS-Net"

    @property
    def name(self) -> str:
        step = f", first step {self.step}" if self.step else ""
        return f"{self.mode}{step}, " + ("no prior" if self.prior == "none" else f"prior {self.prior} ({self.head})")


SEARCHES = (
    Search("published", 0, "restrict"),
    Search("published", 0, "none"),
    *(Search("surface", step, prior) for step in (4, 8) for prior in ("restrict", "union", "none")),
    *(Search("surface", step, "restrict", "Pyramid OSS-Net") for step in (4, 8)),
)


def count(volume: Volume, search: Search, cells: tuple[int, ...]) -> dict[str, Any]:
    """What a search queries in a volume, and in how many voxels it is wrong."""
    ball = BallNetwork(None, volume, cells)
    keys = {"coarse_step": search.step} if search.step else {}
    inferer = OccupancyInferer(SearchSettings(search.mode, prior=search.prior, **keys), points_per_chunk=1 << 20)
    image = torch.zeros(1, 1, *volume.shape)
    result = inferer(image, ball)[0, 0]
    truth = ball.truth()
    stages = inferer.stats.queries_per_stage
    return {
        "voxels of the ball": int(truth.sum()),
        "queries": inferer.stats.queries,
        "of them": ", ".join(f"{stage}: {points:,}" for stage, points in stages.items()),
        "queries for 1,000 voxels": 1000 * inferer.stats.fraction,
        "wrong voxels": int(((result > 0.5) != truth).sum()),
    }


def cells_of(search: Search, size: str) -> tuple[int, ...]:
    """The grid of the prior."""
    if search.head == "OSS-Net":
        return PUBLISHED_PRIOR.get(size, (8, 8, 8))
    return tuple(side // 8 for side in VOLUMES[size].shape)


def limited(found: dict[tuple[str, Search], dict[str, Any]], sizes: list[str]) -> Iterator[dict[str, Any]]:
    """The rows of the first table."""
    for size in sizes:
        published = found[size, SEARCHES[0]]["queries"]
        for search in SEARCHES:
            facts = found[size, search]
            # The published head's prior is what the limits are set for.
            limit = LIMITS.get((size, search.step)) if (search.prior, search.head) == ("restrict", "OSS-Net") else None
            row = {"volume and search": f"{size}, {search.name}", **facts}
            row["published queries, times as many"] = published / facts["queries"]
            row["limit"] = limit or "-"
            row["within"] = "-" if limit is None else ("yes" if facts["queries"] <= limit else "NO")
            yield row


def growths(found: dict[tuple[str, Search], dict[str, Any]], sizes: list[str]) -> Iterator[dict[str, Any]]:
    """The rows of the second table."""
    for search in SEARCHES:
        queries = [found[size, search]["queries"] for size in sizes]
        row: dict[str, Any] = {"search": search.name}
        row |= {f"{size}^3": number for size, number in zip(sizes, queries, strict=True)}
        factors = {f"{a} to {b}": y / x for (a, x), (b, y) in pairwise(zip(sizes, queries, strict=True))}
        row |= factors | {"largest": max(factors.values())}
        row[f"at most {MOST_GROWTH}"] = "yes" if row["largest"] <= MOST_GROWTH else "NO"
        yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["brats", "brats, large", "512"], choices=list(VOLUMES))
    parser.add_argument("--growth", nargs="+", default=GROWTH, choices=GROWTH, help="two or more, each twice the last")
    options = parser.parse_args()
    found = {
        (size, search): count(VOLUMES[size], search, cells_of(search, size))
        for size in dict.fromkeys([*options.sizes, *options.growth])
        for search in SEARCHES
    }
    wrong = {f"{size}, {search.name}": n for (size, search), f in found.items() if (n := f["wrong voxels"])}
    if wrong:
        msg = f"these searches are wrong in so many voxels: {wrong}"
        raise RuntimeError(msg)
    title = "Points queried by a search, a ball in the volume and a network that knows it"
    report("query_counts", title, list(limited(found, options.sizes)), "queries for 1,000 voxels")
    title = "Points queried when the resolution doubles, the same ball in twice as many voxels a side"
    report("query_growth", title, list(growths(found, list(options.growth))), "largest")


if __name__ == "__main__":
    main()

"""The colours of regions and label numbers, the same in pictures, meshes, colour tables and DICOM."""

from __future__ import annotations

COLOURS = ("#56B4E9", "#F0E442", "#E8601C", "#CC79A7", "#009E73", "#0072B2", "#A6761D", "#B3DE69")
"""Colours of regions, outermost first: told apart under the common forms of colour blindness, and on grey."""


def rgb(index: int) -> tuple[int, int, int]:
    """Returns red, green and blue (0 to 255) of a region by its channel; after the last colour the first comes again.

    >>> rgb(0)
    (86, 180, 233)
    """
    red, green, blue = bytes.fromhex(COLOURS[index % len(COLOURS)].lstrip("#"))
    return red, green, blue

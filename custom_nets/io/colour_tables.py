"""Names and colours of label numbers, for viewers that show a label map: 3D Slicer and ITK-SNAP."""

from __future__ import annotations

from collections.abc import Sequence

from custom_nets.io.segments import Segment


def slicer_table(segments: Sequence[Segment]) -> str:
    """Returns a colour table of 3D Slicer (.ctbl): number, name without spaces, red, green, blue, opacity."""
    lines = [
        f"{number} {'_'.join(segment.name.split())} {' '.join(map(str, segment.colour))} 255"
        for segment in segments
        for number in segment.numbers
    ]
    return "\n".join(["# Color", "0 Background 0 0 0 0", *lines, ""])


def itksnap_table(segments: Sequence[Segment]) -> str:
    """Returns a label description file of ITK-SNAP: number, red, green, blue, opacity, visible, in 3D, name."""
    rows = [(0, (0, 0, 0), 0, "Clear Label")]
    rows += [(number, segment.colour, 1, segment.name) for segment in segments for number in segment.numbers]
    lines = [
        f'{number:5d}  {red:5d}{green:5d}{blue:5d}  {shown:7d}  {shown}  {shown}    "{name.replace(chr(34), chr(39))}"'
        for number, (red, green, blue), shown, name in rows
    ]
    return "\n".join(["# ITK-SnAP Label Description File", "# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL", *lines, ""])

"""Well-known data sets by their headers alone, to see what would be planned for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml

from custom_nets.datasets.record import Channel
from custom_nets.tools.planning.fingerprint import Fingerprint

FILE = Path(__file__).with_name("examples.yaml")


def example_fingerprints() -> dict[str, Fingerprint]:
    """Returns the fingerprint of each example by its name."""
    content: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return {name: _fingerprint(name, **entry) for name, entry in content.items()}


def _fingerprint(
    title: str,
    kind: Literal["MRI", "CT", "other"],
    channels: int,
    regions: int,
    shape: list[int],
    spacing: list[float],
    cases: int,
) -> Fingerprint:
    return Fingerprint(
        title=title,
        channels=tuple(Channel(kind if channels == 1 else f"{kind} {i}", kind) for i in range(channels)),
        regions=tuple(f"region {i}" for i in range(regions)),
        shapes=(tuple(shape),),
        spacings=(tuple(map(float, spacing)),),
        cases=cases,
    )

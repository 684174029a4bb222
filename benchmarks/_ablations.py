"""Pyramid OSS-Net with one part changed at a time."""

from __future__ import annotations

import dataclasses

from _methods import METHODS, PYRAMID_SAMPLING, Recipe, pyramid

FULL = METHODS["Pyramid OSS-Net"]


def sampled(**keys: float) -> Recipe:
    """The full recipe with other sampling or loss."""
    return dataclasses.replace(FULL, sampling={**PYRAMID_SAMPLING, **keys})


def built(**keys: object) -> Recipe:
    """The full recipe with another network."""
    return dataclasses.replace(FULL, network=pyramid(**keys))


ABLATIONS: dict[str, Recipe] = {
    "3 levels": built(channels=(16, 32, 64)),
    "5 levels": built(channels=(16, 32, 64, 128, 256)),
    "half the channels": built(channels=(8, 16, 32, 64)),
    "two convolutions on the finest level": built(depths=(2, 2, 2, 2)),
    "top-down": built(top_down=True),
    "downsampling 4": built(downsampling=4),
    "no neighbourhood": built(neighbourhood=0),
    "5x5x5 neighbourhood": built(neighbourhood=5),
    "128 hidden features": built(hidden_features=128),
    "Padé": built(act="pade"),
    "instance norm": built(norm=("instance", {"affine": True})),
    "batch norm": built(norm="batch"),
    "BCE alone": sampled(dice_weight=0.0),
    "no auxiliary loss": sampled(auxiliary_weight=0.0),
    "no uncertain points": sampled(uncertain_share=0.0),
    "uniform points alone": sampled(uncertain_share=0.0, border_balance=0.0),
    "2,048 points": dataclasses.replace(FULL, points=2048),
    "8,192 points": dataclasses.replace(FULL, points=8192),
}

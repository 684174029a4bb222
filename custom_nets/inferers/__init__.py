"""Inferers: dense volumes from point queries, from convolutional networks, and from several of them."""

from custom_nets.inferers.ensemble import EnsembleInferer
from custom_nets.inferers.occupancy import OccupancyInferer, OccupancyMode, OccupancyPrior
from custom_nets.inferers.surface_search.queries import QueryStats
from custom_nets.inferers.volume import VolumeInferer, VolumeMode

__all__ = [
    "EnsembleInferer",
    "OccupancyInferer",
    "OccupancyMode",
    "OccupancyPrior",
    "QueryStats",
    "VolumeInferer",
    "VolumeMode",
]

"""Inferers: dense volumes from point queries, from convolutional networks, and from several of them."""

from custom_nets.inferers.ensemble import EnsembleInferer, models_of_folds
from custom_nets.inferers.occupancy import OccupancyInferer
from custom_nets.inferers.surface_search.queries import QueryStats
from custom_nets.inferers.surface_search.settings import OccupancyMode, OccupancyPrior, SearchSettings
from custom_nets.inferers.volume import VolumeInferer, VolumeMode

__all__ = [
    "EnsembleInferer",
    "OccupancyInferer",
    "OccupancyMode",
    "OccupancyPrior",
    "QueryStats",
    "SearchSettings",
    "VolumeInferer",
    "VolumeMode",
    "models_of_folds",
]

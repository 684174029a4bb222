"""Inferers: dense volumes from point queries."""

from custom_nets.inferers.occupancy import OccupancyInferer, OccupancyMode, OccupancyPrior
from custom_nets.inferers.queries import QueryStats

__all__ = ["OccupancyInferer", "OccupancyMode", "OccupancyPrior", "QueryStats"]

"""Losses."""

from custom_nets.losses.occupancy import OccupancyLoss, PointBCELoss

__all__ = ["OccupancyLoss", "PointBCELoss"]

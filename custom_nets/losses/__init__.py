"""Losses."""

from custom_nets.losses.occupancy import OccupancyLoss, PointBCELoss
from custom_nets.losses.vae import NvNetLoss, gaussian_kl

__all__ = [
    "NvNetLoss",
    "OccupancyLoss",
    "PointBCELoss",
    "gaussian_kl",
]

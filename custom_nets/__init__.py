"""Occupancy networks and convolutional references for 3D medical segmentation, in the form of MONAI's parts."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("custom-nets")
except PackageNotFoundError:  # used from a folder that is not installed
    __version__ = "0+unknown"

"""Occupancy networks and convolutional references for 3D medical segmentation, in the form of MONAI's parts."""

from typing import Any

_IN_MODULES = dict.fromkeys(("Predictor", "Segmentation", "infer"), "custom_nets.tools.predictor")
"""Where each public name is; imported when it is asked for, so that `custom-nets --help` imports no torch."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("custom-nets")
        except PackageNotFoundError:  # used from a folder that is not installed
            return "0+unknown"
    if name in _IN_MODULES:
        from importlib import import_module

        return getattr(import_module(_IN_MODULES[name]), name)
    msg = f"module '{__name__}' has no attribute '{name}'"
    raise AttributeError(msg)

"""Tools at the keyboard, which no packed bundle carries: commands, phantoms, conversion, packing, export."""

from importlib import import_module
from typing import Any

_MODULES = {
    "abdomen_phantom": "phantoms.abdomen",
    "brain_phantom": "phantoms.brain",
    "build_bundle": "bundle_builder",
    "check_submission": "submission",
    "convert_ossnet_checkpoint": "conversion.ossnet_weights",
    "convert_ossnet_state_dict": "conversion.ossnet_weights",
    "convert_segresnet_checkpoint": "conversion.segresnet_weights",
    "convert_segresnet_state_dict": "conversion.segresnet_weights",
    "download_msd": "download",
    "estimate_bundle_memory": "memory",
    "export_bundle": "export.bundle",
    "fetch_bundle": "fetching",
    "format_exports": "export.bundle",
    "pack_bundle": "packing",
    "stack_case": "stacking",
    "write_abdomen_phantoms": "phantoms.abdomen",
    "write_brain_phantoms": "phantoms.brain",
    "write_bundle": "bundle_builder",
    "write_submission": "submission",
}
"""Module of each public name; imported when it is asked for, so that `custom-nets --help` imports no torch."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        msg = f"module '{__name__}' has no attribute '{name}'"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_MODULES)

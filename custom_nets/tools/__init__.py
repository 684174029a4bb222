"""What a person at the keyboard uses and no packed bundle carries: commands, phantoms, conversion, packing, export."""

from custom_nets.tools.bundle_builder import build_bundle, write_bundle
from custom_nets.tools.conversion.ossnet_weights import convert_ossnet_checkpoint, convert_ossnet_state_dict
from custom_nets.tools.conversion.segresnet_weights import convert_segresnet_checkpoint, convert_segresnet_state_dict
from custom_nets.tools.download import download_msd
from custom_nets.tools.export.bundle import export_bundle, format_exports
from custom_nets.tools.fetching import fetch_bundle
from custom_nets.tools.memory import estimate_bundle_memory
from custom_nets.tools.packing import pack_bundle
from custom_nets.tools.phantoms.abdomen import abdomen_phantom, write_abdomen_phantoms
from custom_nets.tools.phantoms.brain import brain_phantom, write_brain_phantoms
from custom_nets.tools.stacking import stack_case
from custom_nets.tools.submission import check_submission, write_submission

__all__ = [
    "abdomen_phantom",
    "brain_phantom",
    "build_bundle",
    "check_submission",
    "convert_ossnet_checkpoint",
    "convert_ossnet_state_dict",
    "convert_segresnet_checkpoint",
    "convert_segresnet_state_dict",
    "download_msd",
    "estimate_bundle_memory",
    "export_bundle",
    "fetch_bundle",
    "format_exports",
    "pack_bundle",
    "stack_case",
    "write_abdomen_phantoms",
    "write_brain_phantoms",
    "write_bundle",
    "write_submission",
]

"""Weights and packaging: conversion of published checkpoints, releases of bundles and their download."""

from custom_nets.zoo.export import export_bundle, format_exports
from custom_nets.zoo.fetching import fetch_bundle
from custom_nets.zoo.memory import estimate_bundle_memory
from custom_nets.zoo.ossnet_weights import convert_ossnet_checkpoint, convert_ossnet_state_dict
from custom_nets.zoo.packing import pack_bundle
from custom_nets.zoo.segresnet_weights import convert_segresnet_checkpoint, convert_segresnet_state_dict

__all__ = [
    "convert_ossnet_checkpoint",
    "convert_ossnet_state_dict",
    "convert_segresnet_checkpoint",
    "convert_segresnet_state_dict",
    "estimate_bundle_memory",
    "export_bundle",
    "fetch_bundle",
    "format_exports",
    "pack_bundle",
]

"""Weights and packaging: conversion of published checkpoints."""

from custom_nets.zoo.ossnet_weights import convert_ossnet_checkpoint, convert_ossnet_state_dict

__all__ = ["convert_ossnet_checkpoint", "convert_ossnet_state_dict"]

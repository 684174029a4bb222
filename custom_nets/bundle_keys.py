"""The start of every run of a bundle: what a person typed is understood and checked before anything is written."""

from __future__ import annotations

from monai.bundle import ConfigWorkflow

from custom_nets.bundle_paths import keep_paths
from custom_nets.errors import show_input_errors


def start_run(workflow: ConfigWorkflow | None) -> None:
    """Prepares a run; the first of our steps in the `initialize` of each config.

    Args:
        workflow: that runs; None where a config is parsed without one.
    """
    show_input_errors()
    if workflow is not None:
        keep_paths(workflow.parser)

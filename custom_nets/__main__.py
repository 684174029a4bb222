"""`python -m custom_nets VERB …`: the command `custom-nets` of the Python that runs it."""

from custom_nets.tools.cli import main

main()

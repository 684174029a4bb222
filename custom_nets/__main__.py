"""`python -m custom_nets VERB …`: the command line where only a downloaded bundle is at hand."""

from custom_nets.tools.cli import main

main()

import sys
from pathlib import Path

# The benchmarks are scripts, no package: they import each other by their bare names.
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

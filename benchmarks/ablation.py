"""Pyramid OSS-Net with one part changed at a time, on the synthetic cohort, under equal time."""

from __future__ import annotations

from _ablations import ABLATIONS
from _compare import argument_parser, make_runs, summarise
from _report import report
from _runs import run_all


def main() -> None:
    parser = argument_parser(__doc__)
    parser.set_defaults(seeds=1, seconds=150.0)
    options = parser.parse_args()
    names = options.methods or ["Pyramid OSS-Net", *ABLATIONS]
    runs = make_runs(options, names, seconds=options.seconds, epochs=None)
    rows = summarise(run_all(runs, options.jobs, options.threads, options.fresh))
    report(
        "ablation",
        f"Pyramid OSS-Net with one part changed, {options.seconds:.0f} s each, {options.seeds} seed(s)",
        rows,
        "test mean Dice",
    )


if __name__ == "__main__":
    main()

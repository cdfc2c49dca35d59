"""Report every problem of the day's inputs at once, then open their run; writes no table but `runs`.

Run it first: it names each broken rule with its rows and up to five examples, and ends with the counts of
the graph that the inputs make.
"""

from __future__ import annotations

import argparse
import sys

from walkbits.cli import add_day_flags, job_parser, run_job


def build_parser() -> argparse.ArgumentParser:
    """The job's flags."""
    parser = job_parser("validate_inputs", __doc__)
    add_day_flags(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Report, and open the run of these inputs; returns the exit code."""
    return run_job(build_parser(), argv, "walkbits.stages.validate_inputs:validate")


if __name__ == "__main__":
    sys.exit(main())

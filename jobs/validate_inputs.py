"""Check the day's inputs by every rule and open its run; writes no table but `runs`."""

from __future__ import annotations

import argparse
import sys

from walkbits.cli import add_day_flags, job_parser, run_job
from walkbits.stages.daily import open_day


def build_parser() -> argparse.ArgumentParser:
    """The job's flags."""
    parser = job_parser("validate_inputs", __doc__)
    add_day_flags(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Open the run of these inputs; returns the exit code."""
    return run_job(build_parser(), argv, open_day)


if __name__ == "__main__":
    sys.exit(main())

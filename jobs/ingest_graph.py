"""Read interactions and items, check them, and write graph and features of a new run."""

from __future__ import annotations

import argparse
import sys

from walkbits.cli import add_day_flags, job_parser, run_job


def build_parser() -> argparse.ArgumentParser:
    """The job's flags."""
    parser = job_parser("ingest_graph", __doc__)
    add_day_flags(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Open the run of these inputs and ingest it; returns the exit code."""
    return run_job(build_parser(), argv, "walkbits.stages.daily:ingest")


if __name__ == "__main__":
    sys.exit(main())

"""Audit a finished run on re-read data and make all its tables visible in one commit."""

from __future__ import annotations

import argparse
import sys

from walkbits.cli import add_publish_flags, add_run_flags, job_parser, run_job


def build_parser() -> argparse.ArgumentParser:
    """The job's flags."""
    parser = job_parser("publish_run", __doc__)
    add_run_flags(parser)
    add_publish_flags(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Publish the run; returns the exit code."""
    return run_job(build_parser(), argv, "walkbits.stages.daily:publish_run")


if __name__ == "__main__":
    sys.exit(main())

"""Point a channel back at a run that it showed before, in one commit."""

from __future__ import annotations

import argparse
import sys

from walkbits.cli import job_parser, run_job


def build_parser() -> argparse.ArgumentParser:
    """The job's flags."""
    parser = job_parser("rollback_run", __doc__)
    parser.add_argument(
        "--run-id", default="previous", help="earlier publication to show again (default: the one before)"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Roll back; returns the exit code."""
    return run_job(build_parser(), argv, "walkbits.stages.daily:rollback_run")


if __name__ == "__main__":
    sys.exit(main())

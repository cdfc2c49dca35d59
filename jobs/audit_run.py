"""Judge a finished run on re-read data, and write the figures; publishes nothing."""

from __future__ import annotations

import argparse
import sys

from walkbits.cli import add_run_flags, job_parser, run_job


def build_parser() -> argparse.ArgumentParser:
    """The job's flags."""
    parser = job_parser("audit_run", __doc__)
    add_run_flags(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Audit the run; returns the exit code."""
    return run_job(build_parser(), argv, "walkbits.stages.daily:audit_run")


if __name__ == "__main__":
    sys.exit(main())

"""Verify that what a channel shows is what was published: pointer, rows, checksums, codes, buckets, model."""

from __future__ import annotations

import argparse
import sys

from walkbits.cli import job_parser, run_job


def build_parser() -> argparse.ArgumentParser:
    """The job's flags."""
    return job_parser("verify", __doc__)


def main(argv: list[str] | None = None) -> int:
    """Verify; returns the exit code."""
    return run_job(build_parser(), argv, "walkbits.stages.daily:verify", writes=False)


if __name__ == "__main__":
    sys.exit(main())

"""Drop runs that no reader can need any more, compact the tables, and vacuum their files."""

from __future__ import annotations

import argparse
import sys

from walkbits.cli import job_parser, run_job


def build_parser() -> argparse.ArgumentParser:
    """The job's flags."""
    return job_parser("maintain_tables", __doc__)


def main(argv: list[str] | None = None) -> int:
    """Maintain; returns the exit code."""
    return run_job(build_parser(), argv, "walkbits.stages.daily:maintain_tables")


if __name__ == "__main__":
    sys.exit(main())

"""Turn committed embeddings into sign codes, LSH buckets and related items."""

from __future__ import annotations

import argparse
import sys

from walkbits.cli import add_explain_flag, add_run_flags, job_parser, run_job


def build_parser() -> argparse.ArgumentParser:
    """The job's flags."""
    parser = job_parser("build_index", __doc__)
    add_run_flags(parser)
    add_explain_flag(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the stage; returns the exit code."""
    return run_job(build_parser(), argv, "walkbits.stages.daily:run_stage", name="build_index")


if __name__ == "__main__":
    sys.exit(main())

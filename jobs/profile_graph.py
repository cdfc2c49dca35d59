"""Describe a run's graph with GraphFrames: validation, degrees, components, k-cores."""

from __future__ import annotations

import argparse
import sys

from walkbits.cli import add_run_flags, job_parser, run_job


def build_parser() -> argparse.ArgumentParser:
    """The job's flags."""
    parser = job_parser("profile_graph", __doc__)
    add_run_flags(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Write the run's graph_profile; returns the exit code."""
    return run_job(build_parser(), argv, "walkbits.stages.daily:run_stage", name="profile_graph")


if __name__ == "__main__":
    sys.exit(main())

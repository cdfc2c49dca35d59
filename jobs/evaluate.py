"""Measure quality on held-out edges, context to item and item to item, beside simple baselines.

Runs the same stages on a graph that lacks edges of some contexts, as evaluation.holdout
says (leave_one_out, random or temporal), under <root>/_evaluation, and publishes nothing.
Figures go to its `evaluation` table.
"""

from __future__ import annotations

import argparse
import sys

from walkbits.cli import add_day_flags, job_parser, run_job


def build_parser() -> argparse.ArgumentParser:
    """The job's flags."""
    parser = job_parser("evaluate", __doc__)
    add_day_flags(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Evaluate; prints the figures and returns the exit code."""
    return run_job(build_parser(), argv, "walkbits.stages.daily:evaluate")


if __name__ == "__main__":
    sys.exit(main())

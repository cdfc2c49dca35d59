"""Every stage of a day in one session: ingest, walk, train, infer, index, audit, publish.

The same inputs and settings are the same run: published already, it is a no-op; killed
on the way, it goes on at the first unfinished stage.
"""

from __future__ import annotations

import argparse
import sys

from walkbits.cli import add_day_flags, add_explain_flag, add_publish_flags, job_parser, run_job


def build_parser() -> argparse.ArgumentParser:
    """The job's flags."""
    parser = job_parser("run_daily", __doc__)
    add_day_flags(parser)
    add_publish_flags(parser)
    add_explain_flag(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the day; returns the exit code."""
    return run_job(build_parser(), argv, "walkbits.stages.daily:day")


if __name__ == "__main__":
    sys.exit(main())

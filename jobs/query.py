"""Run one SQL file on the published views and print its rows, or open a prompt.

spark-submit jobs/query.py sql/queries/related_items.sql item_id=1082185
python jobs/query.py                      the prompt; spark-submit would keep the keyboard
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from walkbits.cli import Job, job_parser, run_job
from walkbits.query import load_query, parse_arguments, prompt, run_query, show
from walkbits.tables.views import register_views


def build_parser() -> argparse.ArgumentParser:
    """The job's flags."""
    parser = job_parser("query", __doc__)
    parser.add_argument("file", nargs="?", type=Path, help="query file; without one, the prompt opens")
    parser.add_argument("arguments", nargs="*", metavar="NAME=VALUE", help="values of the query's parameters")
    return parser


def query(job: Job) -> None:
    """Print the result of the file, or serve the prompt."""
    if job.args.file is None:
        prompt(job.spark, register_views(job.spark, job.config.root))
        return
    wanted = load_query(job.args.file)
    arguments = parse_arguments(wanted, job.args.arguments)
    register_views(job.spark, job.config.root)
    show(run_query(job.spark, wanted, arguments))


def main(argv: list[str] | None = None) -> int:
    """Query; returns the exit code."""
    return run_job(build_parser(), argv, query)


if __name__ == "__main__":
    sys.exit(main())

"""Run one SQL file on the published views and print its rows, or open a prompt.

spark-submit jobs/query.py sql/queries/related_items.sql item_id=1082185
python jobs/query.py                      the prompt; spark-submit would keep the keyboard
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pyspark.sql import SparkSession
from walkbits.cli import job_parser, run_job
from walkbits.config import Config
from walkbits.tables.queries import load_query, parse_arguments, run_query
from walkbits.tables.views import register_views
from walkbits.tools.query import prompt, show


def build_parser() -> argparse.ArgumentParser:
    """The job's flags."""
    parser = job_parser("query", __doc__)
    parser.add_argument("file", nargs="?", type=Path, help="query file; without one, the prompt opens")
    parser.add_argument("arguments", nargs="*", metavar="NAME=VALUE", help="values of the query's parameters")
    return parser


def query(spark: SparkSession, config: Config, file: Path | None, arguments: Sequence[str]) -> None:
    """Print the result of the file, or serve the prompt."""
    if file is None:
        prompt(spark, register_views(spark, config.root, channel=config.channel))
        return
    wanted = load_query(file)
    values = parse_arguments(wanted, arguments)
    register_views(spark, config.root, channel=config.channel)
    show(run_query(spark, wanted, values))


def main(argv: list[str] | None = None) -> int:
    """Query; returns the exit code."""
    return run_job(build_parser(), argv, query, writes=False)


if __name__ == "__main__":
    sys.exit(main())

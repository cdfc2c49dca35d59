"""Write the nearest published items of any queries: ids, histories of new users, or vectors.

--queries names a table (Parquet or Delta) with a column query_id, and by --by

    items, contexts   nothing else: the ids of published items or contexts
    histories         items ARRAY<id>: what each user has seen, of which the model makes its vector
    vectors           embedding ARRAY<FLOAT>, and items where some are to be masked

Lists leave out what a query has seen. --where keeps items by columns of a table of items before lists are
cut, so they still hold k; --spread-by and --at-most bound how many items of one value a list holds.
Queries are gathered on the driver; nothing is written before all of them were checked.
"""

from __future__ import annotations

import argparse
import sys

from walkbits.cli import job_parser, run_job
from walkbits.ingest.queries import KINDS


def build_parser() -> argparse.ArgumentParser:
    """The job's flags."""
    parser = job_parser("find_nearest", __doc__)
    parser.add_argument("--queries", required=True, metavar="PATH", help="table of the queries")
    parser.add_argument("--by", required=True, choices=KINDS, help="what the queries are")
    parser.add_argument("--output", required=True, metavar="PATH", help="new folder or URI of the lists")
    parser.add_argument(
        "--format", choices=("delta", "parquet"), default="delta", help="of the lists (default: %(default)s)"
    )
    parser.add_argument("--k", type=int, default=20, help="items per query (default: %(default)s)")
    parser.add_argument(
        "--items", metavar="PATH", help="table of items to choose from (default: the config's)"
    )
    parser.add_argument("--item", help="its column of ids (default: the config's)")
    parser.add_argument(
        "--where", metavar="SQL", help='keep the items for which this holds, e.g. "stock > 0"'
    )
    parser.add_argument("--spread-by", metavar="COLUMN", help="bound the items of one value of this column")
    parser.add_argument(
        "--at-most",
        type=int,
        default=1,
        help="how many of one value, with --spread-by (default: %(default)s)",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Search; returns the exit code."""
    return run_job(build_parser(), argv, "walkbits.stages.daily:find_nearest")


if __name__ == "__main__":
    sys.exit(main())

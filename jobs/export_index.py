"""Export the published items as an index with its ids and a card, for a server without Spark.

flat, ivf, hnsw and binary are of faiss; hnswlib and usearch need the package of that name.
"""

from __future__ import annotations

import argparse
import sys

from walkbits.cli import job_parser, run_job
from walkbits.index.export import KINDS, SCORES


def build_parser() -> argparse.ArgumentParser:
    """The job's flags."""
    parser = job_parser("export_index", __doc__)
    parser.add_argument("--output", required=True, help="folder or URI of the files; made if absent")
    parser.add_argument("--kind", choices=KINDS, default="flat", help="index to build (default: %(default)s)")
    parser.add_argument(
        "--score", choices=SCORES, default="item",
        help="item: as related does; context: inner product + prior (default: %(default)s)",
    )  # fmt: skip
    return parser


def main(argv: list[str] | None = None) -> int:
    """Export; returns the exit code."""
    return run_job(build_parser(), argv, "walkbits.stages.daily:export_index")


if __name__ == "__main__":
    sys.exit(main())

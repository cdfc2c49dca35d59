"""The runs under a root, as a table: their state, stages, publication, and why a run failed.

    python -m walkbits.tools.list_runs [--config FILE | --root ROOT] [--limit N]
    python -m walkbits.tools.list_runs --report FILE

With --report it writes one static HTML page with plots instead, to open in any browser.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyspark.sql import Row

from walkbits.cli import DEFAULT_CONFIG, exit_code
from walkbits.config_file import load_config
from walkbits.runs.report import monitoring, write_report
from walkbits.session import get_session

LOG = logging.getLogger("walkbits")

WIDEST = 60
"""Characters of a cell; a reason is cut where the table would break the terminal's lines."""


def as_table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of one shape as text, columns aligned, long cells cut."""
    if not rows:
        return "none\n"
    cells = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(rows[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in cells]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _cell(value: Any) -> str:
    text = " ".join(str("" if value is None else value).split())
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 3]}..."


def list_runs(rows: Sequence[Row], limit: int) -> str:
    """The newest runs, one line each, and below them every failure in full."""
    shown = [row.asDict() for row in rows[:limit]]
    brief = [
        {
            "run": row["run_id"],
            "state": row["state"],
            "shown in": row["shown"],
            "stages": len(row["stages"].split()),
            "last": (row["stages"].split() or [""])[-1],
            "seconds": row["seconds"],
            "changed (UTC)": f"{row['changed_at']:%Y-%m-%d %H:%M}",
        }
        for row in shown
    ]
    failed = [f"\n{r['run_id']} failed: {r['detail']}\n" for r in shown if r["state"] == "failed"]
    return as_table(brief) + "".join(failed)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, or write the page; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m walkbits.tools.list_runs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config", default=DEFAULT_CONFIG, help="YAML that names the root (default: %(default)s)"
    )
    parser.add_argument("--root", help="folder or URI of the tables; overrides the config")
    parser.add_argument("--limit", type=int, default=20, help="newest runs to list (default: %(default)s)")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write an HTML page instead")
    args = parser.parse_args(argv)

    def work() -> None:
        root = args.root or load_config(args.config).root
        spark = get_session("walkbits runs")
        if args.report is None:
            sys.stdout.write(list_runs(monitoring(spark, root, "runs"), args.limit))
        else:
            write_report(spark, root, args.report)
        spark.stop()

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())

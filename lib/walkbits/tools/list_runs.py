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

from pyspark.sql import Row, SparkSession

from walkbits.arrays.places import Place, link_to, write_bytes
from walkbits.cli import DEFAULT_CONFIG, exit_code
from walkbits.config_file import load_config
from walkbits.errors import InputError
from walkbits.query import load_query, run_query
from walkbits.schemas import PUBLICATIONS, RUN_METRICS, RUNS, STAGE_LOG
from walkbits.session import get_session
from walkbits.tables.store import Store
from walkbits.tables.views import SQL_FOLDER
from walkbits.tools.report import page

LOG = logging.getLogger("walkbits")

WIDEST = 60
"""Characters of a cell; a reason is cut where the table would break the terminal's lines."""


def monitoring(spark: SparkSession, root: str, name: str) -> list[Row]:
    """The rows of sql/monitoring/<name>.sql over a root, published or not.

    Raises:
        InputError: no run was ever opened under the root.
    """
    store = Store(spark, root)
    if not store.exists(RUNS):
        raise InputError(f"root must hold runs, got '{root}' without any; run jobs/run_daily.py first")
    for table in (RUNS, STAGE_LOG, PUBLICATIONS, RUN_METRICS):
        store.read(table).createOrReplaceTempView(table.name)
    return run_query(spark, load_query(SQL_FOLDER / "monitoring" / f"{name}.sql"), {}).collect()


def write_report(spark: SparkSession, root: str, path: Place) -> None:
    """Write the HTML page of all runs under a root, and log where it is; needs the checkout's sql/."""
    if not SQL_FOLDER.is_dir():
        LOG.warning("report=none: the folder sql/ must lie beside lib/, got none at '%s'", SQL_FOLDER)
        return
    names = ("runs", "freshness", "cost", "fidelity", "drift")
    views = {name: [row.asDict() for row in monitoring(spark, root, name)] for name in names}
    write_bytes(path, page(root, views.pop("runs"), views).encode())
    LOG.info("report=%s", link_to(path))


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

"""What happened under a root: the monitoring queries, and one HTML page of them."""

from __future__ import annotations

import logging

from pyspark.sql import Row, SparkSession

from walkbits.arrays.places import Place, link_to, write_bytes
from walkbits.errors import InputError
from walkbits.runs.page import page
from walkbits.schemas import PUBLICATIONS, RUN_METRICS, RUNS, STAGE_LOG
from walkbits.tables.queries import load_query, run_query
from walkbits.tables.store import Store
from walkbits.tables.views import SQL_FOLDER

LOG = logging.getLogger("walkbits")


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
        LOG.warning("report=none: the folder sql/ must be beside lib/, got none at '%s'", SQL_FOLDER)
        return
    names = ("runs", "freshness", "cost", "fidelity", "drift")
    views = {name: [row.asDict() for row in monitoring(spark, root, name)] for name in names}
    write_bytes(path, page(root, views.pop("runs"), views).encode())
    LOG.info("report=%s", link_to(path))

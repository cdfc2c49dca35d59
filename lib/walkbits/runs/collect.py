"""Dropping runs that no reader can need, and keeping the tables' files few and large."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import timedelta
from typing import Any

from delta.tables import DeltaTable
from pyspark.sql import SparkSession, Window
from pyspark.sql import functions as F

from walkbits.schemas import LEASES, PUBLICATIONS, RUN_ID, RUN_METRICS, RUNS, STAGE_LOG, TABLES, Table
from walkbits.settings import Maintenance
from walkbits.tables.store import Store
from walkbits.tables.tables import utc_now

PARTITIONED = tuple(t for t in TABLES.values() if RUN_ID.name in t.partition_by and t != RUN_METRICS)
"""Tables whose partitions go with their run; logs and figures stay."""


def collectable(store: Store, rules: Maintenance) -> list[str]:
    """Runs that may go: none of a channel's newest publications, and quiet for `keep_days`.

    What an earlier collection began, before it was killed, goes at once.
    """
    newest_first = Window.partitionBy("channel").orderBy(F.desc("seq"))
    shown = (
        store.read(PUBLICATIONS)
        .withColumn("_age", F.row_number().over(newest_first))
        .where(F.col("_age") <= rules.keep_published)
        .select("run_id")
    )
    quiet = F.max("recorded_at") < F.lit(utc_now() - timedelta(days=rules.keep_days))
    states = store.read(RUNS).groupBy("run_id").agg(
        quiet.alias("quiet"), F.max_by("state", "seq").alias("state")
    )  # fmt: skip
    old = states.where("(quiet AND state <> 'collected') OR state = 'collecting'").join(
        shown, "run_id", "left_anti"
    )
    return sorted(row["run_id"] for row in old.collect())


def drop_runs(store: Store, run_ids: list[str]) -> list[Table]:
    """Delete the runs' partitions; files stay for VACUUM's retention, so open readers finish.

    Returns:
        The tables that were touched.
    """
    touched = [table for table in PARTITIONED if run_ids and store.exists(table)]
    for table in touched:
        with store.commits.one(table):
            DeltaTable.forPath(store.spark, store.path(table)).delete(F.col("run_id").isin(run_ids))
    return touched


def remove_folder(spark: SparkSession, path: str, recursive: bool = True) -> None:
    """Delete what Spark wrote outside the tables, if it is there; unless `recursive`, an empty folder."""
    jvm: Any = spark._jvm
    folder = jvm.org.apache.hadoop.fs.Path(path)
    folder.getFileSystem(spark._jsparkSession.sessionState().newHadoopConf()).delete(folder, recursive)


LOGS = (RUNS, STAGE_LOG, RUN_METRICS, PUBLICATIONS, LEASES)
"""Tables that grow by a small file per append."""


def compact(store: Store, table: Table) -> None:
    """OPTIMIZE the table, then VACUUM what its retention no longer protects."""
    # VACUUM lists folders in this many tasks; the default of 10,000 takes a minute for an empty table.
    store.spark.conf.set("spark.sql.sources.parallelPartitionDiscovery.parallelism", 8)
    delta = DeltaTable.forPath(store.spark, store.path(table))
    with store.commits.publishing() if table == PUBLICATIONS else nullcontext(), store.commits.one(table):
        delta.optimize().executeCompaction()
    delta.vacuum()

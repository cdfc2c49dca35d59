"""Walks on a cluster that copies slow tasks: `python -m support.walks_elsewhere <master> <folder>`.

Reads the graph in `<folder>/graph`, writes its neighborhoods to `<folder>/rows.parquet` and prints how
many speculative tasks ran.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path, PosixPath
from typing import Any

import pyarrow.parquet as pq
from pyspark import TaskContext
from pyspark.sql import SparkSession
from walkbits.settings import Walks
from walkbits.walks.replicated import build_neighborhoods

from support.small_data import SMALL_DATA

WALKS = Walks(num_walks=10, num_neighbors=4, restart_probability=0.1)
SEED, PARTITIONS = 5, 4
SPECULATION = {
    "spark.speculation": "true",
    "spark.speculation.interval": "100ms",
    "spark.speculation.quantile": "0.5",
    "spark.speculation.efficiency.enabled": "false",
}


class SlowOnce(PosixPath):
    """A graph folder whose first reader of partition 0 waits until a copy of its task has begun."""

    def __truediv__(self, name: str) -> Path:  # type: ignore[override]
        task, copied = TaskContext.get(), Path(f"{self}.copied")
        if task is not None and task.partitionId() == 0:
            if task.attemptNumber():
                copied.touch()
            end = time.monotonic() + 60
            while not copied.exists() and time.monotonic() < end:
                time.sleep(0.05)
        return Path(str(self), name)


def speculative_tasks(spark: SparkSession, group: str) -> int:
    """Copies of tasks that Spark started in a job group."""
    store: Any = spark.sparkContext._jsc.sc().statusStore()
    tracker = spark.sparkContext.statusTracker()
    infos = [tracker.getJobInfo(job) for job in tracker.getJobIdsForGroup(group)]
    tasks = [store.taskList(stage, 0, 100) for info in infos if info for stage in info.stageIds]
    return sum(one.apply(i).speculative() for one in tasks for i in range(one.size()))


if __name__ == "__main__":
    master, folder = sys.argv[1], Path(sys.argv[2])
    settings = SMALL_DATA | SPECULATION | {
        "spark.master": master, "spark.driver.host": "127.0.0.1", "spark.executor.memory": "640m",
        "spark.executorEnv.PYTHONPATH": os.environ["PYTHONPATH"],
    }  # fmt: skip
    builder = SparkSession.builder.appName("speculation")
    for key, value in settings.items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    session.sparkContext.setJobGroup("walks", "walks")
    rows = build_neighborhoods(
        session,
        SlowOnce(folder / "graph"),
        "item_from_item",
        WALKS,
        SEED,
        PARTITIONS,
        nodes_per_batch=7,  # so that a small graph is cut into several tasks
    )
    pq.write_table(rows.to_frame().toArrow(), folder / "rows.parquet")
    session.sparkContext._jsc.sc().listenerBus().waitUntilEmpty()
    sys.stdout.write(f"speculative={speculative_tasks(session, 'walks')}\n")
    session.stop()

"""A stage's progress and cost, from the figures that Spark's driver keeps anyway.

No event log and no web UI are needed; the same figures are in both.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from py4j.protocol import Py4JError
from pyspark.sql import SparkSession

LOG = logging.getLogger("walkbits")

EVERY_SECONDS: Final = 10.0

Figures = dict[str, tuple[float, str]]


@dataclass(frozen=True)
class SparkStage:
    """A Spark stage as the driver knows it; sizes in bytes, times in seconds of task time."""

    tasks: int
    done: int
    failed: int
    active: bool
    rows: int
    read: int
    shuffled: int
    spilled: int
    run_seconds: float
    median_seconds: float
    max_seconds: float


def spark_stages(spark: SparkSession, group: str, quantiles: bool = False) -> list[SparkStage]:
    """Every Spark stage of a job group that ran or runs.

    Args:
        quantiles: Whether to ask for the spread of the tasks' times, which takes a moment.
    """
    context = spark.sparkContext
    store: Any = context._jsc.sc().statusStore()
    gateway: Any = context._gateway
    points = gateway.new_array(gateway.jvm.double, 2)
    points[0], points[1] = 0.5, 1.0
    tracker, seen = context.statusTracker(), {}
    for job in tracker.getJobIdsForGroup(group):
        info = tracker.getJobInfo(job)
        for stage_id in info.stageIds if info else ():
            try:
                data = store.lastStageAttempt(stage_id)
            except Py4JError:  # not started, or skipped
                continue
            if not data.numCompleteTasks() + data.numActiveTasks() + data.numFailedTasks():
                continue
            median = longest = 0.0
            if quantiles and data.numTasks() > 1:  # one task has no spread
                summary = store.taskSummary(stage_id, data.attemptId(), points)
                if summary.isDefined():
                    times = summary.get().executorRunTime()
                    median, longest = times.apply(0) / 1000, times.apply(1) / 1000
            seen[stage_id] = SparkStage(
                tasks=data.numTasks(),
                done=data.numCompleteTasks(),
                failed=data.numFailedTasks(),
                active=data.status().toString() == "ACTIVE",
                rows=data.outputRecords() or data.shuffleWriteRecords(),
                read=data.inputBytes() + data.shuffleReadBytes(),
                shuffled=data.shuffleWriteBytes(),
                spilled=data.diskBytesSpilled(),
                run_seconds=data.executorRunTime() / 1000,
                median_seconds=median,
                max_seconds=longest,
            )
    return list(seen.values())


def cost(stages: list[SparkStage]) -> Figures:
    """The stages' sums, and the spread of tasks in the stage where its longest task weighs most."""
    figures: Figures = {
        "tasks": (float(sum(s.done for s in stages)), "tasks"),
        "failed_tasks": (float(sum(s.failed for s in stages)), "tasks"),
        "task_seconds": (sum(s.run_seconds for s in stages), "seconds"),
        "read_bytes": (float(sum(s.read for s in stages)), "bytes"),
        "shuffled_bytes": (float(sum(s.shuffled for s in stages)), "bytes"),
        "spilled_bytes": (float(sum(s.spilled for s in stages)), "bytes"),
    }
    spread = [s for s in stages if s.done > 1]
    if spread:
        worst = max(spread, key=lambda s: s.max_seconds - s.median_seconds)
        figures["longest_task_seconds"] = (worst.max_seconds, "seconds")
        figures["median_task_seconds"] = (worst.median_seconds, "seconds")
    return figures


def line(stages: list[SparkStage], seconds: float) -> str | None:
    """One line about the Spark stage at work: tasks and rows done, rate, time left; None between stages.

    Rows are left out where Spark sees none, as of files that tasks write themselves.

    Args:
        seconds: How long the stages at work have been so, for the rate.
    """
    at_work = [s for s in stages if s.active]
    tasks, done = sum(s.tasks for s in at_work), sum(s.done for s in at_work)
    if not tasks:
        return None
    rows = sum(s.rows for s in at_work)
    left = f"{seconds * (tasks - done) / done:.0f}s" if done else "unknown"
    rate = f" rows={rows} rows_per_second={rows / max(seconds, 0.1):.0f}" if rows else ""
    return f"tasks={done}/{tasks}{rate} left={left}"


@contextmanager
def watched(spark: SparkSession, group: str, every: float = EVERY_SECONDS) -> Iterator[Figures]:
    """Log a line now and then while the block runs; afterwards the figures it yields are filled.

    The caller sets the job group first. What cannot be read is left out: a figure is never worth a run.
    """
    figures: Figures = {}
    over = threading.Event()

    def watch() -> None:
        began, before = time.monotonic(), -1
        while not over.wait(every):
            try:
                stages = spark_stages(spark, group)
            except Exception as error:  # the session may be stopping
                LOG.debug("progress: %s", error)
                continue
            finished = sum(not s.active for s in stages)
            if finished != before:
                began, before = time.monotonic() - every, finished
            text = line(stages, time.monotonic() - began)
            if text is not None:
                LOG.info("%s state=running %s", group, text)

    thread = threading.Thread(target=watch, name="progress", daemon=True)
    thread.start()
    try:
        yield figures
    finally:
        over.set()
        thread.join()
    try:
        spark.sparkContext._jsc.sc().listenerBus().waitUntilEmpty()
        figures |= cost(spark_stages(spark, group, quantiles=True))
    except Py4JError as error:
        LOG.warning("%s: no cost figures (%s)", group, error)

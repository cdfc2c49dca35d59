"""Every file of sql/monitoring runs over a made-up history and answers what it says."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from walkbits.schemas import PUBLICATIONS, RUN_METRICS, RUNS, STAGE_LOG, TABLES, Table
from walkbits.tables.queries import load_query, run_query

SQL = Path(__file__).resolve().parents[2] / "sql" / "monitoring"
FIRST, SECOND = "20260130-aaaaaaaa-a1", "20260131-bbbbbbbb-a1"
NOW = datetime.now(UTC).replace(microsecond=0)


def at(hours: float) -> datetime:
    """So many hours ago."""
    return NOW - timedelta(hours=hours)


def rows(table: Table, *values: dict[str, Any]) -> list[tuple[Any, ...]]:
    empty = {"attempt": 1, "inputs_fingerprint": "f", "config": "{}", "stage_key": "k", "fingerprint": "0"}
    filled = [
        empty | {"seq": int(v["recorded_at"].timestamp()) if "recorded_at" in v else None} | v for v in values
    ]
    return [tuple(one.get(name) for name in table.names) for one in filled]


def state(run_id: str, name: str, hours: float, detail: str | None = None) -> dict[str, Any]:
    ds = date(2026, 1, int(run_id[6:8]))
    return {"run_id": run_id, "ds": ds, "state": name, "detail": detail, "recorded_at": at(hours)}


def figure(run_id: str, stage: str, name: str, value: float, hours: float) -> dict[str, Any]:
    return {
        "run_id": run_id, "stage": stage, "metric": name, "value": float(value), "unit": "", "recorded_at": at(hours),
    }  # fmt: skip


def logged(stage: str, output: str, count: int, seconds: float, hours: float) -> dict[str, Any]:
    return {
        "run_id": FIRST, "stage": stage, "output": output, "rows": count, "bytes": 10 * count,
        "seconds": seconds, "recorded_at": at(hours),
    }  # fmt: skip


@pytest.fixture(scope="module")
def history(spark: SparkSession) -> dict[str, list[tuple[Any, ...]]]:
    return {
        RUNS.name: rows(
            RUNS, state(FIRST, "created", 30), state(FIRST, "published", 27), state(SECOND, "created", 3),
            state(SECOND, "failed", 1, "audit.min_cosine: too low"),
        ),
        STAGE_LOG.name: rows(
            STAGE_LOG, logged("ingest_graph", "nodes", 100, 2.0, 29.5), logged("ingest_graph", "edges", 300, 2.0, 29.5),
            logged("build_index", "codes", 1, 9.0, 29), logged("build_index", "codes", 50, 5.0, 28),
            logged("build_index", "run_metrics/stage=x", 7, 5.0, 28),
        ),
        PUBLICATIONS.name: rows(
            PUBLICATIONS,
            {"channel": "live", "seq": 1, "ds": date(2026, 1, 30), "run_id": FIRST, "model_version": "m",
             "rows": 1, "sha": "s", "published_at": at(27)},
        ),
        RUN_METRICS.name: rows(
            RUN_METRICS, figure(FIRST, "audit_run", "bucket_recall", 0.8, 27), figure(SECOND, "audit_run", "bucket_recall", 0.5, 1),
            figure(FIRST, "ingest_graph.cost", "tasks", 12, 29), figure(FIRST, "ingest_graph.cost", "longest_task_seconds", 6, 29),
            figure(FIRST, "ingest_graph.cost", "median_task_seconds", 2, 29),
            figure(FIRST, "build_neighborhoods", "overlap_at_t[item_from_item]", 0.43, 29),
        ),
    }  # fmt: skip


def answer(spark: SparkSession, history: dict[str, list[tuple[Any, ...]]], name: str) -> list[dict[str, Any]]:
    for name_of_table, values in history.items():
        frame = spark.createDataFrame(values, TABLES[name_of_table].schema)
        frame.createOrReplaceTempView(name_of_table)
    query = load_query(SQL / f"{name}.sql")
    frame = run_query(spark, query, {})
    told = query.path.read_text(encoding="utf-8").split("-- Columns:")[1]
    assert all(column in told for column in frame.columns)
    return [row.asDict() for row in frame.collect()]


def test_runs(spark: SparkSession, history: dict[str, list[tuple[Any, ...]]]) -> None:
    second, first = answer(spark, history, "runs")
    assert (second["run_id"], second["state"], second["detail"]) == (
        SECOND,
        "failed",
        "audit.min_cosine: too low",
    )
    assert (first["stages"], first["seconds"], first["shown"]) == ("ingest_graph build_index", 7.0, "live")


def test_freshness(spark: SparkSession, history: dict[str, list[tuple[Any, ...]]]) -> None:
    (live,) = answer(spark, history, "freshness")
    assert live["run_id"] == FIRST
    hours = (datetime.now(UTC) - at(27)).total_seconds() / 3600
    assert live["hours_since_published"] == pytest.approx(hours, abs=0.1)


def test_cost_takes_the_newest_pass_of_a_stage(
    spark: SparkSession, history: dict[str, list[tuple[Any, ...]]]
) -> None:
    index, ingest = sorted(answer(spark, history, "cost"), key=lambda row: row["stage"])
    assert (ingest["rows"], ingest["rows_per_second"], ingest["tasks"], ingest["skew"]) == (
        400,
        200.0,
        12,
        3.0,
    )
    assert (index["rows"], index["seconds"], index["tasks"]) == (50, 5.0, None)


def test_drift_and_fidelity(spark: SparkSession, history: dict[str, list[tuple[Any, ...]]]) -> None:
    second, first = answer(spark, history, "drift")
    assert (second["before"], second["change"], first["before"]) == (0.8, -0.3, None)
    (walked,) = answer(spark, history, "fidelity")
    assert walked["value"] == 0.43

"""Clocks order nothing: not one that was set back, not the hour that comes twice."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from support import world
from walkbits.runs import log
from walkbits.runs.collect import collectable
from walkbits.runs.log import Run, find_run, is_labelled, log_stage, newest_state, read_log, record_state
from walkbits.runs.stage import StageRun
from walkbits.schemas import RUN_METRICS, RUNS, STAGE_LOG
from walkbits.settings import Maintenance
from walkbits.tables.store import Store, Written

pytestmark = pytest.mark.system

NOW = datetime(2026, 11, 1, 5, 50, tzinfo=UTC)
RUN = "20261031-aaaaaaaa-a1"


@pytest.fixture(params=["UTC", "America/New_York", "Asia/Kathmandu"])
def zone(request: pytest.FixtureRequest) -> Iterator[str]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = request.param
    time.tzset()
    yield request.param
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


def test_the_hour_that_comes_twice_is_two_hours(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    """New York's clocks show 01:50 and then 01:10; the record of 01:10 is the newer one."""
    store = Store(spark, str(tmp_path / "root"))
    for minutes, mark in ((0, "older"), (20, "newer")):
        monkeypatch.setattr(log, "utc_now", lambda minutes=minutes: NOW + timedelta(minutes=minutes))
        log_stage(store, RUN, "ingest_graph", mark, [Written("nodes", 1, mark, 1, 1)], 1.0)
    assert read_log(store, RUN)["ingest_graph"].stage_key == "newer"
    rows = (
        store.read(STAGE_LOG).selectExpr("seq", "unix_timestamp(recorded_at) AS at").orderBy("seq").collect()
    )
    assert [row["at"] for row in rows] == [int(NOW.timestamp()), int(NOW.timestamp()) + 1200]


def test_a_clock_set_back_changes_no_order(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A workflow opens a run under a label; the clock is put right; it opens another: that one is the label's."""
    config = world.world_config(tmp_path)
    store = Store(spark, config.root)
    first, second = (Run(date(2026, 1, 31), letter * 64, 1) for letter in "ab")
    for run, state, hours in (
        (first, "created", 1),
        (second, "created", 0),
        (second, "audited", -1),
        (second, "collecting", -2),
        (second, "created", -3),
    ):
        monkeypatch.setattr(log, "utc_now", lambda hours=hours: NOW + timedelta(hours=hours))
        record_state(store, run, config, state, label="workflow")
    assert find_run(store, None, label="workflow") == second
    assert is_labelled(store, second, "workflow")
    assert not is_labelled(store, first, "workflow")
    assert newest_state(store, second.run_id) == "created"
    assert [row["seq"] for row in store.read(RUNS).orderBy("seq").collect()] == [1, 2, 3, 4, 5]


def test_a_collected_run_is_found_by_its_id_only(spark: SparkSession, tmp_path: Path) -> None:
    config = world.world_config(tmp_path)
    store = Store(spark, config.root)
    first, second = (Run(date(2026, 1, 31), letter * 64, 1) for letter in "ab")
    for run, state in ((first, "created"), (second, "created"), (second, "collected")):
        record_state(store, run, config, state)
    assert find_run(store, None) == first
    assert find_run(store, second.run_id) == second
    assert collectable(store, Maintenance(keep_days=7)) == []


@pytest.mark.parametrize("ds", ["2024-02-29", "2026-12-31", "2026-03-08", "2026-11-01"])
def test_a_day_is_a_day_in_every_zone(zone: str, ds: str) -> None:
    run = Run(date.fromisoformat(ds), "0a1b2c3d" + "0" * 56, 1)
    assert run.run_id == f"{ds.replace('-', '')}-0a1b2c3d-a1"


def test_figures_of_another_attempt_take_the_place_of_the_last_ones(
    spark: SparkSession, tmp_path: Path
) -> None:
    """Also where one attempt measured more than the other."""
    config = world.world_config(tmp_path)
    context = StageRun(Store(spark, config.root), config, Run(date(2026, 1, 31), "a" * 64, 1))
    for attempt, figures in enumerate(
        ({}, {"loss": (1.0, "")}, {"loss": (2.0, ""), "epochs": (4.0, "")}, {})
    ):
        context.metrics({"train_model": figures, "train_model.cost": {"tasks": (float(attempt), "tasks")}})
        rows = context.store.read(RUN_METRICS, run_id=context.run_id).collect()
        assert {row["metric"]: row["value"] for row in rows if row["stage"] == "train_model"} == {
            name: value for name, (value, _) in figures.items()
        }
        assert [row["value"] for row in rows if row["stage"] == "train_model.cost"] == [float(attempt)]

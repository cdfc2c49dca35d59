"""Inputs that change while a run works on them: read as they were, or refused; never half of each."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from walkbits.config import Config
from walkbits.errors import ConfigError, InputError
from walkbits.runs.stage import execute
from walkbits.schemas import EDGES, FEATURES, NODES
from walkbits.stages import build_features, daily, ingest_graph
from walkbits.tables.store import Store

DAY = date(2026, 1, 31)
EVENTS = [(f"i{n % 5}", f"c{n % 3}", 1.0) for n in range(15)]
ITEMS = [(f"i{n}", float(n)) for n in range(6)]


def write(folder: Path, events: list[tuple[Any, ...]], items: list[tuple[Any, ...]]) -> None:
    for name, rows, columns in (
        ("events", events, ("item_id", "context_id", "w")),
        ("items", items, ("item_id", "price")),
    ):
        values = zip(*rows, strict=True)
        pq.write_table(pa.table(dict(zip(columns, map(list, values), strict=True))), folder / name)


def config_of(folder: Path) -> Config:
    return Config.model_validate(
        {
            "root": str(folder / "root"),
            "interactions": {"path": str(folder / "events"), "weight": "w"},
            "items": {"path": str(folder / "items"), "numeric": ["price"]},
            "model": {"architecture": "lightgcn"},
        }
    )


def test_rows_that_come_in_unjudged_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path, EVENTS, ITEMS)
    config = config_of(tmp_path)
    context = daily.open_day(spark, config, ds=DAY)
    write(tmp_path, [*EVENTS, ("i1", "new", -5.0)], ITEMS)
    with pytest.raises(InputError, match="inputs must stay as they were .* run again"):
        execute(context, ingest_graph.STAGE)
    assert context.store.read(EDGES).count() == context.store.read(NODES).count() == 0
    write(tmp_path, EVENTS[::-1], ITEMS)  # the same rows in another order are the same
    assert execute(context, ingest_graph.STAGE)
    write(tmp_path, EVENTS, [*ITEMS[:-1], ("i5", float("nan"))])
    with pytest.raises(InputError, match="inputs must stay as they were .* got other rows of items"):
        execute(context, build_features.STAGE)
    write(tmp_path, EVENTS, ITEMS)
    assert execute(context, build_features.STAGE)
    assert context.store.read(FEATURES, run_id=context.run_id).count() == len(ITEMS)


def test_a_delta_table_is_read_as_it_was_when_the_run_was_opened(spark: SparkSession, tmp_path: Path) -> None:
    def save(name: str, rows: list[tuple[Any, ...]], schema: str) -> None:
        frame = spark.createDataFrame(rows, schema)
        frame.write.format("delta").mode("append").save(str(tmp_path / name))

    save("events", EVENTS, "item_id string, context_id string, w double")
    save("items", ITEMS, "item_id string, price double")
    config = config_of(tmp_path)
    opened = daily.open_day(spark, config, ds=DAY)
    assert opened.config.interactions.version == 0
    save("events", [("i1", "new", -5.0)], "item_id string, context_id string, w double")
    save("items", [("i9", float("nan"))], "item_id string, price double")
    for stage in ("ingest_graph", "build_features"):  # by jobs of their own
        daily.run_stage(spark, config, stage, ds=DAY)
    store = Store(spark, config.root)
    assert store.read(EDGES, run_id=opened.run_id).count() == len(set(EVENTS))
    assert store.read(FEATURES, run_id=opened.run_id).count() == len(ITEMS)
    with pytest.raises(InputError, match="must be finite"):
        daily.open_day(spark, config, ds=DAY)


def test_a_day_far_ahead_is_refused_unless_told(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path, EVENTS, ITEMS)
    with pytest.raises(
        ConfigError, match=r"--ds must be at most 3 days ahead .* got 2062-01-31.*--allow-future"
    ):
        daily.open_day(spark, config_of(tmp_path), ds=date(2062, 1, 31))
    assert not (tmp_path / "root").exists()
    assert (
        daily.open_day(spark, config_of(tmp_path), ds=date(2062, 1, 31), allow_future=True).run.ds.year
        == 2062
    )

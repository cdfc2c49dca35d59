"""Files of Delta tables that Python tasks read and write themselves: equal to what Spark reads and writes."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import deltalake
import numpy as np
import pyarrow as pa
import pytest
from delta.tables import DeltaTable
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from reference.plain import packed
from walkbits.errors import EmptyInputError
from walkbits.schemas import (
    CODES,
    EMBEDDINGS,
    NEIGHBORHOODS,
    NODE_ID,
    RELATED,
    REPRESENTATIONS,
    RUN_ID,
    Column,
    Table,
)
from walkbits.tables.rows import Batches, Rows
from walkbits.tables.store import Store

RUN, OTHER = "20260101-aaaaaaaa-a1", "20260102-bbbbbbbb-a1"
VECTORS = Table(
    "vectors",
    "A table of one partition column.",
    (RUN_ID, NODE_ID, Column("features", "BINARY", "little-endian fp32 vector")),
    key=("run_id", "node_id"),
    compression="uncompressed",
)
FLOATS = [0.5, -0.0, float("nan"), float("inf"), 1e-40]

ROWS: list[tuple[Table, dict[str, int | str], list[tuple[object, ...]]]] = [
    (
        EMBEDDINGS,
        {},
        [("item", i, "näme" * i, [x + i for x in FLOATS], -i / 7) for i in range(20)]
        + [("context", 20, "", [], 0.0)],
    ),
    (CODES, {"code_bits": 64}, [("item", i, str(i), [i - 7], i / 3, -i) for i in range(9)]),
    (RELATED, {}, [("a" * 70, 1, "\U0001f600" * 40, float("nan")), ("b", 2, "c", -0.0)]),
    (
        NEIGHBORHOODS,
        {"relation": "item_from_item"},
        [(i, packed(range(i)), packed(range(1, i + 1))) for i in range(30)],
    ),
    (REPRESENTATIONS, {"layer": 2}, [("item", i, os.urandom(512)) for i in range(5)]),
]


@pytest.fixture
def store(spark: SparkSession, tmp_path: Path) -> Store:
    return Store(spark, str(tmp_path / "a root"))


def frame_of(
    store: Store, table: Table, fixed: dict[str, int | str], rows: list[tuple[object, ...]]
) -> DataFrame:
    fields = [field for field in table.schema.fields if field.name not in {"run_id", *fixed}]
    schema = ", ".join(f"{field.name} {field.dataType.simpleString()}" for field in fields)
    return store.spark.createDataFrame(rows, schema)


@pytest.mark.parametrize(("table", "fixed", "rows"), ROWS, ids=lambda one: getattr(one, "name", ""))
def test_tasks_write_what_spark_writes(
    store: Store, table: Table, fixed: dict[str, int | str], rows: list[tuple[object, ...]]
) -> None:
    frame = frame_of(store, table, fixed, rows).repartition(3)
    own = store.write_rows(table, [Rows.of(frame)], RUN, **fixed)
    by_spark = store.write(table, frame, OTHER, **fixed)
    assert (own.output, own.rows, own.fingerprint) == (by_spark.output, len(rows), by_spark.fingerprint)
    assert store.fingerprint(table, RUN, **fixed) == (len(rows), own.fingerprint)
    assert own.bytes > 0
    assert (own.delta_version, by_spark.delta_version) == (1, 2)
    # NaN is no value of its own, so rows are compared as text
    read = [store.read(table, run_id=run).drop("run_id").collect() for run in (RUN, OTHER)]
    assert sorted(map(str, read[0])) == sorted(map(str, read[1]))
    assert deltalake.DeltaTable(store.path(table)).to_pyarrow_table().num_rows == 2 * len(rows)


def test_the_log_bounds_scalars_and_no_vectors(store: Store) -> None:
    rows = [("item", i, "\U0001f600" * 40 if i else "a", [float(i)], 0.0) for i in range(5)]
    store.write_rows(EMBEDDINGS, [Rows.of(frame_of(store, EMBEDDINGS, {}, rows).coalesce(1))], RUN)
    said = pa.table(deltalake.DeltaTable(store.path(EMBEDDINGS)).get_add_actions(flatten=True)).to_pylist()[0]
    assert said["num_records"] == 5
    assert (said["min.node_id"], said["max.node_id"], said["null_count.node_id"]) == (0, 4, 0)
    assert said["min.external_id"] == "a"
    assert said["max.external_id"] > "\U0001f600" * 40
    assert not any(said[name] for name in said if "embedding" in name)
    found = store.read(EMBEDDINGS, run_id=RUN, external_id="\U0001f600" * 40)
    assert found.count() == 4


def test_a_text_of_many_kilobytes_leaves_the_file_without_bounds(store: Store) -> None:
    """Its row group has none, so those of the others are not those of the file."""
    long = "z" * 20_000

    def large(batches: Batches) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in range(batch.num_rows):  # each row a row group of its own
                row = batch.slice(number, 1)
                wide = pa.array([np.zeros(3 << 20, np.float32)])
                yield pa.RecordBatch.from_arrays(
                    [*row.columns[:3], wide, row.column(4)], names=batch.schema.names
                )

    rows = [("item", i, name, [1.0], 0.0) for i, name in enumerate(("a", long, "b"))]
    frame = frame_of(store, EMBEDDINGS, {}, rows).coalesce(1)
    store.write_rows(EMBEDDINGS, [Rows.of(frame).then(large, frame.schema)], RUN)
    said = pa.table(deltalake.DeltaTable(store.path(EMBEDDINGS)).get_add_actions(flatten=True)).to_pylist()[0]
    assert (said["min.node_id"], said["max.node_id"]) == (0, 2)
    assert said.get("max.external_id") is None
    found = store.read(EMBEDDINGS, run_id=RUN, external_id=long).select("node_id").collect()
    assert [row.node_id for row in found] == [1]


@pytest.mark.parametrize("first", ["spark", "tasks"])
def test_both_ways_of_writing_replace_what_the_other_wrote(store: Store, first: str) -> None:
    """Also where the partition's value is escaped in its folder's name."""
    run = "run=1"
    frame = frame_of(store, VECTORS, {}, [(i, packed([i])) for i in range(4)])

    def write(way: str) -> None:
        if way == "spark":
            store.write(VECTORS, frame, run)
        else:
            store.write_rows(VECTORS, [Rows.of(frame)], run)

    write(first)
    write("tasks" if first == "spark" else "spark")
    assert store.read(VECTORS, run_id=run).count() == 4
    assert store.scan(VECTORS, ("node_id",), run_id=run).to_frame().count() == 4


def test_every_row_is_read_once_however_files_are_split(
    store: Store,
) -> None:
    store = dataclasses.replace(store, split_bytes=700)
    rows = [(i, np.arange(8, dtype=np.float32).tobytes()) for i in range(3000)]
    frame = frame_of(store, VECTORS, {}, rows).repartition(3)
    for run in (RUN, OTHER):
        store.write_rows(VECTORS, [Rows.of(frame)], run)
    scanned = store.scan(VECTORS, ("node_id", "features"), run_id=RUN)
    assert scanned.frame.rdd.getNumPartitions() > 50
    assert sorted(row.node_id for row in scanned.to_frame().collect()) == list(range(3000))
    assert scanned.schema == store.read(VECTORS).select("node_id", "features").schema


def test_few_files_of_a_run_are_read_as_they_are(spark: SparkSession, tmp_path: Path) -> None:
    store = Store(spark, str(tmp_path / "a {root} [0-9]*?"))
    rows = [("item" if i % 3 else "context", i, packed([i])) for i in range(10)]
    for run in (RUN, "a=run.1", OTHER):
        for layer in (1, 2):
            frame = frame_of(store, REPRESENTATIONS, {"layer": layer}, rows[layer:]).repartition(2)
            store.write(REPRESENTATIONS, frame, RUN, layer=layer)  # replaced, but for the last time
            store.write_rows(REPRESENTATIONS, [Rows.of(frame)], run, layer=layer)
    DeltaTable.forPath(spark, store.path(REPRESENTATIONS)).optimize().executeCompaction()
    stored = spark.read.format("delta").load(store.path(REPRESENTATIONS)).select(*REPRESENTATIONS.names)
    for where in ({"layer": 1}, {"layer": "2", "node_type": "context"}, {}, {"layer": 3}):
        found = store.read(REPRESENTATIONS, run_id="a=run.1", **where)
        assert "Delta" not in found._jdf.queryExecution().toString()
        wanted = stored.where(F.col("run_id") == "a=run.1")
        for name, value in where.items():
            wanted = wanted.where(F.col(name) == value)
        assert sorted(found.collect()) == sorted(wanted.collect())
        assert (found.dtypes, bool(found.head())) == (wanted.dtypes, where != {"layer": 3})
    assert "Delta" in store.read(REPRESENTATIONS)._jdf.queryExecution().toString()  # statistics skip files


def test_a_scan_narrows_to_values_of_other_columns(store: Store) -> None:
    rows = [("item" if i % 3 else "context", i, packed([i])) for i in range(10)]
    store.write_rows(
        REPRESENTATIONS, [Rows.of(frame_of(store, REPRESENTATIONS, {"layer": 1}, rows))], RUN, layer=1
    )
    scanned = store.scan(REPRESENTATIONS, ("node",), run_id=RUN, layer=1, node_type="context")
    assert sorted(row.node for row in scanned.to_frame().collect()) == [0, 3, 6, 9]
    for other in (
        store.scan(VECTORS, ("node_id",), run_id=RUN),
        store.scan(REPRESENTATIONS, ("node",), run_id=RUN, layer=2),
    ):
        assert other.to_frame().count() == 0


@pytest.mark.parametrize(
    "change", ["delta.enableDeletionVectors' = 'true", "delta.columnMapping.mode' = 'name"]
)
def test_files_that_are_not_the_rows_are_left_to_spark(
    store: Store, spark: SparkSession, change: str
) -> None:
    rows = [(i, packed([i])) for i in range(6)]
    store.write_rows(VECTORS, [Rows.of(frame_of(store, VECTORS, {}, rows).coalesce(1))], RUN)
    place = f"delta.`{store.path(VECTORS)}`"
    spark.sql(f"ALTER TABLE {place} SET TBLPROPERTIES ('{change}')")
    spark.sql(f"DELETE FROM {place} WHERE node_id = 3")
    scanned = store.scan(VECTORS, ("node_id",), run_id=RUN)
    assert not scanned.steps
    assert store.read(VECTORS, run_id=RUN).count() == 5
    assert sorted(row.node_id for row in scanned.to_frame().collect()) == [0, 1, 2, 4, 5]


def test_a_damaged_page_is_an_error(store: Store) -> None:
    rows = [(i, bytes(512)) for i in range(100)]
    store.write_rows(VECTORS, [Rows.of(frame_of(store, VECTORS, {}, rows).coalesce(1))], RUN)
    (file,) = Path(store.path(VECTORS)).rglob("*.parquet")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(PySparkException, match="(?i)crc"):
        store.scan(VECTORS, ("features",), run_id=RUN).to_frame().collect()


def test_rows_that_the_table_forbids_leave_nothing(store: Store, spark: SparkSession) -> None:
    absent = spark.createDataFrame([(1, None)], "node_id bigint, features binary")
    with pytest.raises(PySparkException, match="features"):
        store.write_rows(VECTORS, [Rows.of(absent)], RUN)
    with pytest.raises(EmptyInputError, match="at least one row"):
        store.write_rows(VECTORS, [Rows.of(absent.where("node_id > 1"))], RUN)
    assert not list(Path(store.path(VECTORS)).rglob("*.parquet"))
    assert store.read(VECTORS).count() == 0


def test_a_killed_task_leaves_each_row_once(store: Store, tmp_path: Path) -> None:
    marker = str(tmp_path / "killed")

    def kill_once(batches: Batches) -> Iterator[pa.RecordBatch]:
        yield from batches
        for number in range(40):  # more than a row group: the file is begun
            vectors = pa.array([os.urandom(512 << 10)])
            yield pa.RecordBatch.from_arrays(
                [pa.array([100 + number]), vectors], names=["node_id", "features"]
            )
        if not os.path.exists(marker):
            open(marker, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)

    frame = frame_of(store, VECTORS, {}, [(i, packed([i])) for i in range(10)]).coalesce(1)
    written = store.write_rows(VECTORS, [Rows.of(frame).then(kill_once, frame.schema)], RUN)
    assert Path(marker).exists()
    assert written.rows == 50
    assert store.fingerprint(VECTORS, RUN) == (50, written.fingerprint)
    assert len(list(Path(store.path(VECTORS)).rglob("*.parquet"))) == 2  # the killed one's is in no log
    assert len(deltalake.DeltaTable(store.path(VECTORS)).file_uris()) == 1

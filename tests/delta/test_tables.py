"""The store on real Delta tables: schema, partitions, fingerprints, and an independent reader."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import deltalake
import pyarrow as pa
import pytest
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from reference.plain import packed, unpacked
from walkbits.errors import EmptyInputError, InputError, LostRaceError, WalkbitsError
from walkbits.schemas import CODES, NEIGHBORHOODS, RUN_METRICS, TABLES, Table
from walkbits.tables.commits import Commits, check_writable, output_name, parse_output
from walkbits.tables.locks import Busy, locked
from walkbits.tables.rows import Rows
from walkbits.tables.store import Store, Written
from walkbits.tables.tables import Tables, utc_now

RUN, OTHER = "20260101-aaaaaaaa-a1", "20260102-bbbbbbbb-a1"


@pytest.fixture
def store(spark: SparkSession, tmp_path: Path) -> Store:
    return Store(spark, str(tmp_path / "root"))


def neighborhoods(spark: SparkSession, rows: list[tuple[int, list[int], list[int]]]) -> DataFrame:
    binary = [(node, packed(neighbors), packed(visits)) for node, neighbors, visits in rows]
    return spark.createDataFrame(binary, "node int, neighbors binary, visits binary")


def test_a_table_that_does_not_exist_reads_as_empty(store: Store) -> None:
    frame = store.read(NEIGHBORHOODS, run_id=RUN)
    assert frame.columns == NEIGHBORHOODS.names
    assert frame.isEmpty()
    assert not Path(store.root).exists()


def test_a_table_of_another_version_is_refused_by_its_columns(store: Store, spark: SparkSession) -> None:
    older = "run_id string, relation string, node int, neighbors array<int>, extra int"
    spark.createDataFrame([], older).write.format("delta").save(store.path(NEIGHBORHOODS))
    refused = r"must have neighbors binary \(got array<int>\), visits binary \(got none\); another version"
    for touch in (lambda: store.read(NEIGHBORHOODS), lambda: store.ensure(NEIGHBORHOODS)):
        with pytest.raises(InputError, match=refused):
            touch()


def test_a_table_is_created_by_one_driver_at_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    held = []

    def create(self: Tables, table: Table) -> None:
        file = self.commits.lock_file(f"{table.name}.commit")
        assert file is not None
        with pytest.raises(Busy), locked(file):
            pass
        held.append(table.name)
        created(self, table)

    created = Tables._create
    monkeypatch.setattr(Tables, "_create", create)
    Store(store.spark, store.root).ensure(NEIGHBORHOODS)
    store.ensure(NEIGHBORHOODS)
    assert held == [NEIGHBORHOODS.name]


def test_a_table_that_another_driver_creates_at_once_is_taken(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no lock is shared, the creation that comes second fails on the table of the first."""
    created = Tables._create

    def create(self: Tables, table: Table) -> None:
        created(Tables(self.spark, self.root), table)
        raise PySparkException("DELTA_CREATE_TABLE_WITH_NON_EMPTY_LOCATION")

    monkeypatch.setattr(Tables, "_create", create)
    store.ensure(NEIGHBORHOODS)
    assert store.read(NEIGHBORHOODS).isEmpty()

    def refused(self: Tables, table: Table) -> None:
        raise PySparkException("no room")

    monkeypatch.setattr(Tables, "_create", refused)
    with pytest.raises(PySparkException, match="no room"):
        store.ensure(CODES)


def test_written_rows_read_back_under_their_partition(store: Store, spark: SparkSession) -> None:
    rows = [(0, [2, 1], [5, 3]), (1, [], [])]
    written = store.write(NEIGHBORHOODS, neighborhoods(spark, rows), RUN, relation="item_from_item")
    assert (written.rows, written.output) == (2, "neighborhoods/relation=item_from_item")
    assert written.bytes > 0
    found = store.read(NEIGHBORHOODS, run_id=RUN, relation="item_from_item").orderBy("node").collect()
    assert [(r["node"], unpacked(r["neighbors"]), unpacked(r["visits"])) for r in found] == rows
    assert store.fingerprint(NEIGHBORHOODS, RUN, relation="item_from_item") == (2, written.fingerprint)


def test_writing_again_replaces_only_the_own_partition(store: Store, spark: SparkSession) -> None:
    for run, relation in ((RUN, "item_from_item"), (RUN, "item_from_context"), (OTHER, "item_from_item")):
        store.write(NEIGHBORHOODS, neighborhoods(spark, [(0, [1], [1])]), run, relation=relation)
    store.write(
        NEIGHBORHOODS, neighborhoods(spark, [(7, [1], [1]), (8, [], [])]), RUN, relation="item_from_item"
    )
    found = store.read(NEIGHBORHOODS).groupBy("run_id", "relation").count().collect()
    assert {(r[0], r[1]): r[2] for r in found} == {
        (RUN, "item_from_item"): 2, (RUN, "item_from_context"): 1, (OTHER, "item_from_item"): 1,
    }  # fmt: skip


def operations(store: Store) -> list[str]:
    """Mode of every write to the table, oldest first."""
    history = deltalake.DeltaTable(store.path(NEIGHBORHOODS)).history()
    return [one["operationParameters"]["mode"] for one in reversed(history) if one["operation"] == "WRITE"]


Write = Callable[[Store, DataFrame], Written]


def by_spark(store: Store, frame: DataFrame) -> Written:
    return store.write(NEIGHBORHOODS, frame, RUN, relation="item_from_item")


def by_tasks(store: Store, frame: DataFrame) -> Written:
    return store.write_rows(NEIGHBORHOODS, [Rows.of(frame)], RUN, relation="item_from_item")


@pytest.mark.parametrize("write", [by_spark, by_tasks])
def test_only_a_partition_that_was_written_before_is_replaced(
    store: Store, spark: SparkSession, write: Write
) -> None:
    """Also by a driver that has seen nothing of the first write, and after the rows were deleted."""
    for times in (1, 2, 3):
        fresh = Store(spark, store.root)
        frame = neighborhoods(spark, [(node, [1], [1]) for node in range(times)])
        written = write(fresh, frame)
        assert (written.rows, written.delta_version) == (times, 2 * times - 1)
        assert written.bytes > 0
        assert store.fingerprint(NEIGHBORHOODS, RUN, relation="item_from_item") == (
            times,
            written.fingerprint,
        )
        spark.sql(f"DELETE FROM delta.`{store.path(NEIGHBORHOODS)}` WHERE node >= 0")
    assert operations(store) == ["Append", "Overwrite", "Overwrite"]


@pytest.mark.parametrize("write", [by_spark, by_tasks])
def test_a_first_write_that_another_driver_overtakes_is_refused(
    store: Store, spark: SparkSession, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two drivers resume one run: the later commit of a first write must not add its rows to the other's.
    As where they share no disk, on which the second would wait for the first."""
    monkeypatch.setattr(Commits, "lock_file", lambda *_: None)
    store.ensure(NEIGHBORHOODS)
    frame = neighborhoods(spark, [(0, [1], [1])])
    started, overtaken = Path(store.root, "started"), Path(store.root, "overtaken")

    def overtake(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        started.touch()
        while not overtaken.exists():
            time.sleep(0.05)
        yield from batches

    def slow() -> Written:
        waiting = frame.coalesce(1).mapInArrow(overtake, frame.schema)  # leaves the other core to the winner
        return write(Store(spark, store.root), waiting)

    with ThreadPoolExecutor(1) as other:
        pending = other.submit(slow)
        while not started.exists():
            time.sleep(0.05)
        winner = write(store, frame)
        overtaken.touch()
        with pytest.raises(LostRaceError, match="only the driver that holds run"):
            pending.result()
    assert store.fingerprint(NEIGHBORHOODS, RUN, relation="item_from_item") == (1, winner.fingerprint)


def test_several_partitions_are_written_and_replaced_in_one_commit(store: Store) -> None:
    def figures(value: float) -> DataFrame:
        row = {"run_id": RUN, "metric": "m", "value": value, "unit": "", "recorded_at": utc_now()}
        return store.local(RUN_METRICS, [row | {"stage": stage} for stage in ("a", "a.cost")])

    for value in (1.0, 2.0):
        store.write(RUN_METRICS, figures(value), RUN, stage=("a", "a.cost"))
    found = store.read(RUN_METRICS).orderBy("stage").collect()
    assert [(row["stage"], row["value"]) for row in found] == [("a", 2.0), ("a.cost", 2.0)]


def test_fingerprint_ignores_order_partitioning_and_run(store: Store, spark: SparkSession) -> None:
    frame = spark.range(500).select(
        F.col("id").cast("int").alias("node"),
        F.unhex(F.lpad(F.hex("id"), 8, "0")).alias("neighbors"),
        F.lit(packed([1])).alias("visits"),
    )
    one = store.write(NEIGHBORHOODS, frame.repartition(7), RUN, relation="item_from_item")
    two = store.write(
        NEIGHBORHOODS, frame.orderBy(F.desc("node")).coalesce(1), OTHER, relation="item_from_item"
    )
    assert one.fingerprint == two.fingerprint
    three = store.write(NEIGHBORHOODS, frame.where("node <> 3"), OTHER, relation="item_from_item")
    assert three.fingerprint != one.fingerprint


def test_fingerprint_sees_a_doubled_pair_of_rows(store: Store, spark: SparkSession) -> None:
    rows = [(0, [1], [1]), (1, [2], [2])]
    one = store.write(NEIGHBORHOODS, neighborhoods(spark, rows), RUN, relation="item_from_item")
    two = store.write(NEIGHBORHOODS, neighborhoods(spark, rows * 3), OTHER, relation="item_from_item")
    assert one.fingerprint != two.fingerprint


def test_empty_frame_is_refused_unless_allowed(store: Store, spark: SparkSession) -> None:
    empty = neighborhoods(spark, [])
    with pytest.raises(EmptyInputError, match="neighborhoods"):
        store.write(NEIGHBORHOODS, empty, RUN, relation="item_from_item")
    assert store.write(NEIGHBORHOODS, empty, RUN, allow_empty=True, relation="item_from_item").rows == 0


def test_missing_column_is_refused_and_a_foreign_one_dropped(store: Store, spark: SparkSession) -> None:
    frame = neighborhoods(spark, [(0, [1], [1])])
    with pytest.raises(WalkbitsError, match=r"columns \['visits'\]"):
        store.write(NEIGHBORHOODS, frame.drop("visits"), RUN, relation="item_from_item")
    store.write(NEIGHBORHOODS, frame.withColumn("extra", F.lit(1)), RUN, relation="item_from_item")
    assert store.read(NEIGHBORHOODS).columns == NEIGHBORHOODS.names


def test_check_constraint_holds_in_the_table(store: Store, spark: SparkSession) -> None:
    with pytest.raises((PySparkException, Py4JJavaError), match="same_length"):
        store.write(NEIGHBORHOODS, neighborhoods(spark, [(0, [1, 2], [1])]), RUN, relation="item_from_item")


@pytest.mark.parametrize("value", ["x' OR '1'='1", "a;b", "../up", "", "`"])
def test_a_partition_value_is_no_place_for_sql(store: Store, spark: SparkSession, value: str) -> None:
    with pytest.raises(InputError, match="run_id must match"):
        store.write(NEIGHBORHOODS, neighborhoods(spark, [(0, [1], [1])]), value, relation="item_from_item")


def test_an_independent_reader_sees_the_same_rows(store: Store, spark: SparkSession) -> None:
    codes = spark.createDataFrame(
        [(64, "item", 0, "a", [-(2**63)], 0.5, -1), (128, "item", 0, "a", [1, 2], 0.25, 0)],
        "code_bits int, node_type string, node_id bigint, external_id string, code array<bigint>, scale float, "
        "prior_code bigint",
    )
    store.write(CODES, codes, RUN)
    read = deltalake.DeltaTable(store.path(CODES)).to_pyarrow_table().sort_by("code_bits").to_pylist()
    assert [(r["run_id"], r["code_bits"], r["code"]) for r in read] == [
        (RUN, 64, [-(2**63)]),
        (RUN, 128, [1, 2]),
    ]


def test_output_names_parse_back() -> None:
    name = output_name(NEIGHBORHOODS, {"relation": "item_from_item"})
    assert parse_output(name) == ("neighborhoods", {"relation": "item_from_item"})
    assert parse_output("nodes") == ("nodes", {})


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda t: t.name)
def test_tables_are_created_as_declared(store: Store, table: Table) -> None:
    store.ensure(table)
    store.ensure(table)
    frame = store.spark.read.format("delta").load(store.path(table))
    assert frame.columns == table.names
    assert [f.dataType for f in frame.schema.fields] == [f.dataType for f in table.schema.fields]
    assert all(f.metadata.get("comment") for f in frame.schema.fields)
    properties = {
        r["key"]: r["value"]
        for r in store.spark.sql(f"SHOW TBLPROPERTIES delta.`{store.path(table)}`").collect()
    }
    assert {f"delta.constraints.{name}" for name in table.checks} <= properties.keys()
    assert properties["delta.minReaderVersion"] == "1"


def test_unwritable_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WalkbitsError, match="root must be a writable folder"):
        check_writable(str(tmp_path / "file" / "below"))
    check_writable(str(tmp_path / "new" / "root"))

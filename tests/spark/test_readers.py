"""What pandas, pyarrow, Spark and Python's csv write is read value by value by the one reading layer."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from walkbits.ingest.nodes import select_nodes
from walkbits.ingest.sources import read_source
from walkbits.input_settings import Csv, Items, Source

TEXT = st.text(
    st.one_of(
        st.sampled_from(",;|\"'\t\n\r\\ \u00e9\u0301\u2028\x0b\x1c\x85\u4e2d\U0001f600\ufeff"),
        st.characters(exclude_categories=["Cs"], exclude_characters="\x00"),
    ),
    max_size=6,
)
NULLS = Csv().nulls
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "text": st.none() | TEXT,
            "whole": st.none() | st.integers(-(2**63), 2**63 - 1),
            "real": st.none() | st.floats(allow_nan=False),
            "exact": st.none() | st.integers(-(10**20) + 1, 10**20 - 1).map(Decimal),
            "yes": st.none() | st.booleans(),
            "day": st.none() | st.dates(date(1600, 1, 1), date(9000, 1, 1)),
            "at": st.none()
            | st.datetimes(datetime(1680, 1, 1), datetime(2260, 1, 1), timezones=st.just(UTC)),
        }
    ),
    min_size=1,
    max_size=30,
)
SCHEMA = pa.schema(
    {
        "number": pa.int64(),
        "text": pa.string(),
        "whole": pa.int64(),
        "real": pa.float64(),
        "exact": pa.decimal128(20, 0),
        "yes": pa.bool_(),
        "day": pa.date32(),
        "at": pa.timestamp("us", "UTC"),
    }
)
EXAMPLES = pytest.mark.parametrize("examples", [3, pytest.param(60, marks=pytest.mark.slow)])
"""Tables per writer: few in each run of the tests, many where time is given."""


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist([{"number": n} | row for n, row in enumerate(rows)], SCHEMA)


def by_pyarrow(spark: SparkSession, table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, row_group_size=3)


def by_pandas(spark: SparkSession, table: pa.Table, path: Path) -> None:
    frame = table.to_pandas(types_mapper=pd.ArrowDtype)
    frame["at"] = table.column("at").cast(pa.timestamp("ns", "UTC")).to_pandas()
    frame.to_parquet(path)


def by_spark(spark: SparkSession, table: pa.Table, path: Path) -> None:
    spark.createDataFrame(table).write.parquet(str(path))


def for_each(examples: int, tables: st.SearchStrategy[Any], check: Callable[[Any], None]) -> None:
    """Check that many random tables."""

    @settings(max_examples=examples, suppress_health_check=[HealthCheck.too_slow])
    @given(table=tables)
    def each(table: Any) -> None:
        check(table)

    each()


NODES = Items(
    path="x",
    item="number",
    name="text",
    categorical=("exact", "text"),
    numeric=("real", "whole", "yes", "day", "at"),
)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def node_of(number: int, row: dict[str, Any]) -> tuple[Any, ...]:
    """What ingest must make of a row by the settings `NODES`."""
    labels = [f"{column}={row[column]}" for column in NODES.categorical if row[column] is not None]
    micros = None if row["at"] is None else (row["at"] - EPOCH) // timedelta(microseconds=1)
    numbers = [
        row["real"],
        None if row["whole"] is None else float(row["whole"]),
        None if row["yes"] is None else float(row["yes"]),
        None if row["day"] is None else float((row["day"] - EPOCH.date()).days),
        None if micros is None else float(micros) / 86_400_000_000.0,
    ]
    return (str(number), row["text"], labels, numbers)


@pytest.mark.parametrize("write", [by_pyarrow, by_pandas, by_spark])
@EXAMPLES
def test_parquet(
    spark: SparkSession, write: Callable[[SparkSession, pa.Table, Path], None], examples: int
) -> None:
    def check(rows: list[dict[str, Any]]) -> None:
        table = table_of(rows)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "t.parquet"
            write(spark, table, path)
            frame = read_source(spark, Source(path=str(path)), "items")
            found = frame.orderBy("number").toArrow().select(SCHEMA.names).cast(SCHEMA)
            nodes = (
                select_nodes(frame, NODES, "items").select("id", "name", "categorical", "numbers").collect()
            )
        assert found.to_pylist() == table.to_pylist()
        expected = [node_of(number, row) for number, row in enumerate(rows)]
        assert sorted((tuple(node) for node in nodes), key=lambda node: int(node[0])) == expected

    for_each(examples, ROWS, check)


def csv_by_python(spark: SparkSession, table: pa.Table, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(table.column_names)
        writer.writerows(zip(*table.to_pydict().values(), strict=True))


def csv_by_pandas(spark: SparkSession, table: pa.Table, path: Path) -> None:
    # With its own line ends pandas leaves a lone carriage return unquoted: such a file is torn already.
    table.to_pandas().to_csv(path, index=False, lineterminator="\r\n")


def csv_by_pyarrow(spark: SparkSession, table: pa.Table, path: Path) -> None:
    pyarrow.csv.write_csv(table, path)


def csv_by_spark(spark: SparkSession, table: pa.Table, path: Path) -> None:
    writer = spark.createDataFrame(table).write.option("header", True).option("escape", '"')
    writer.option("ignoreLeadingWhiteSpace", False).option("ignoreTrailingWhiteSpace", False).csv(str(path))


PAIRS = st.lists(st.tuples(st.none() | TEXT, st.none() | TEXT), min_size=1, max_size=60)


@pytest.mark.parametrize("write", [csv_by_python, csv_by_pandas, csv_by_pyarrow, csv_by_spark])
@EXAMPLES
def test_csv(
    spark: SparkSession, write: Callable[[SparkSession, pa.Table, Path], None], examples: int
) -> None:
    def check(texts: list[tuple[Any, Any]]) -> None:
        first, second = ([row[at] for row in texts] for at in (0, 1))
        table = pa.table(
            {
                "a": pa.array(first, pa.string()),
                "number": range(len(texts)),
                "b": pa.array(second, pa.string()),
            }
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "t.csv"
            write(spark, table, path)
            frame = read_source(spark, Source(path=str(path), format="csv"), "items")
            spec = Items(path="x", item="number", name="a", categorical=("b",))
            nodes = select_nodes(frame, spec, "items").select("id", "name", "categorical").collect()
        nulled = [tuple(None if one in NULLS else one for one in row) for row in texts]
        expected = [
            (str(number), name, [] if label is None else [f"b={label}"])
            for number, (name, label) in enumerate(nulled)
        ]
        assert sorted((tuple(node) for node in nodes), key=lambda node: int(node[0])) == expected

    for_each(examples, PAIRS, check)

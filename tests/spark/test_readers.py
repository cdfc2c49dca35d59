"""What pandas, pyarrow, Spark and Python's csv write is read value by value by the one reading layer."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable
from datetime import UTC, date, datetime
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
from walkbits.ingest.sources import read_source
from walkbits.input_settings import Csv, Source

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
    max_size=8,
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
FEW = settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])


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


@pytest.mark.parametrize("write", [by_pyarrow, by_pandas, by_spark])
@FEW
@given(rows=ROWS)
def test_parquet(
    spark: SparkSession, write: Callable[[SparkSession, pa.Table, Path], None], rows: list[dict[str, Any]]
) -> None:
    table = table_of(rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.parquet"
        write(spark, table, path)
        found = read_source(spark, Source(path=str(path)), "items").orderBy("number").toArrow()
    found = found.select(SCHEMA.names).cast(SCHEMA)
    assert found.to_pylist() == table.to_pylist()


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


@pytest.mark.parametrize("write", [csv_by_python, csv_by_pandas, csv_by_pyarrow, csv_by_spark])
@FEW
@given(texts=st.lists(st.tuples(st.none() | TEXT, st.none() | TEXT), min_size=1, max_size=8))
def test_csv(
    spark: SparkSession, write: Callable[[SparkSession, pa.Table, Path], None], texts: list[tuple[Any, Any]]
) -> None:
    first, second = ([row[at] for row in texts] for at in (0, 1))
    table = pa.table(
        {"a": pa.array(first, pa.string()), "number": range(len(texts)), "b": pa.array(second, pa.string())}
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        write(spark, table, path)
        rows = read_source(spark, Source(path=str(path), format="csv"), "items").collect()
    found = [(row["a"], row["b"]) for row in sorted(rows, key=lambda row: int(row["number"]))]
    assert found == [tuple(None if one in NULLS else one for one in row) for row in texts]

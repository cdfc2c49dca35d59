"""Tables as people have them, read by the one reading layer: value by value, or refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame, SparkSession
from walkbits.errors import InputError
from walkbits.ingest.sources import pinned_version, quoted, read_source, require_columns
from walkbits.input_settings import Csv, Source
from walkbits.spark_errors import data_errors


def values(frame: DataFrame) -> list[tuple[Any, ...]]:
    with data_errors("items"):
        return sorted((tuple(row) for row in frame.collect()), key=str)


def read(spark: SparkSession, path: Path, **settings: Any) -> DataFrame:
    return read_source(spark, Source(path=str(path), **settings), "items")


def test_csv_folder_with_folder_names_and_other_files(spark: SparkSession, tmp_path: Path) -> None:
    for shop, text in {
        "007": "item,n\na,1\n",
        "7": 'n,item\n2,"b\nb"\n',
        "__HIVE_DEFAULT_PARTITION__": "item,n\nc,3\n",
    }.items():
        folder = tmp_path / f"shop={shop}"
        folder.mkdir()
        (folder / "part.csv").write_text(text)
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / "shop=7" / ".part.csv.crc").write_bytes(b"\xff")
    (tmp_path / "shop=7" / "empty.csv").touch()
    frame = read(spark, tmp_path, format="csv")
    assert frame.columns == ["item", "n", "shop"]
    assert values(frame) == [("a", "1", "007"), ("b\nb", "2", "7"), ("c", "3", None)]


def test_a_row_that_a_task_refuses_is_one_sentence(spark: SparkSession, tmp_path: Path) -> None:
    file = tmp_path / "items.csv"
    file.write_text("item,name\na,b\nc,d,red\n")
    with pytest.raises(
        InputError, match=rf"^items: each row must have 2 fields .* got 3 in line 3 of '{file}'"
    ):
        values(read(spark, file, format="csv").select("item"))


@pytest.mark.parametrize("escape", [None, "\\"])
def test_csv_of_spark(spark: SparkSession, tmp_path: Path, escape: str | None) -> None:
    rows = [
        ("a", 'q"q'),
        ("b", 'c, "\\"'),
        ("c", "\\\\server\\x"),
        ("d", "end\\"),
        ("e", "x\ny\\"),
        ("f", None),
    ]
    writer = spark.createDataFrame(rows, "item string, name string").write.option("header", True)
    (writer if escape else writer.option("escape", '"')).csv(str(tmp_path / "t"))
    assert values(read(spark, tmp_path / "t", format="csv", csv=Csv(escape=escape))) == rows


def test_a_delta_folder_is_read_as_delta(spark: SparkSession, tmp_path: Path) -> None:
    table = tmp_path / "t"
    for start in (0, 300):
        frame = spark.range(start, start + 300)
        frame.selectExpr("id", "id % 2 AS part").write.partitionBy("part").format("delta").mode(
            "overwrite"
        ).save(str(table))
    assert read(spark, table).count() == 300
    with pytest.raises(InputError, match=r"items\.format must be delta .* got csv"):
        read(spark, table, format="csv")
    with pytest.raises(InputError, match=r"whole table, got .*part=0' within the Delta table .*/t'"):
        read(spark, table / "part=0")


def test_a_version_of_a_delta_table_stays_the_same(spark: SparkSession, tmp_path: Path) -> None:
    table = Source(path=str(tmp_path / "t"), format="delta")
    spark.range(3).write.format("delta").save(str(tmp_path / "t"))
    pinned = table.model_copy(update={"version": pinned_version(spark, table, "items")})
    spark.range(5).write.format("delta").mode("append").save(str(tmp_path / "t"))
    assert read_source(spark, pinned, "items").count() == 3
    assert read_source(spark, table, "items").count() == 8
    plain = Source(path=str(tmp_path), format="parquet")
    assert pinned_version(spark, plain, "items") is None


def test_other_table_formats_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / ".hoodie").mkdir()
    with pytest.raises(InputError, match=r"Hudi.*items\.table"):
        read(spark, tmp_path)


def test_folder_names_stay_text(spark: SparkSession, tmp_path: Path) -> None:
    for shop in ("007", "7", "2026-01-01", "1e3", "a%2Fb"):
        (tmp_path / f"shop={shop}").mkdir()
        pq.write_table(pa.table({"item": ["i"]}), tmp_path / f"shop={shop}" / "p.parquet")
    assert values(read(spark, tmp_path)) == [("i", s) for s in ("007", "1e3", "2026-01-01", "7", "a/b")]


@pytest.mark.parametrize("name", ["a[1]b", "x{y}z", "what?", "star*", "back\\slash", "sp ace%20é", "k=v"])
@pytest.mark.parametrize("kind", ["parquet", "csv", "delta"])
def test_a_path_is_no_pattern(spark: SparkSession, tmp_path: Path, name: str, kind: str) -> None:
    folder = tmp_path / name
    if kind == "delta":
        if "\\" in name or "%" in name:
            pytest.skip("Delta itself cannot write there")
        spark.createDataFrame([("i",)], "item string").write.format("delta").save(str(folder))
    else:
        folder.mkdir()
        if kind == "csv":
            (folder / "t").write_text("item\ni\n")
        else:
            pq.write_table(pa.table({"item": ["i"]}), folder / "t.parquet")
    assert values(read(spark, folder, format=kind)) == [("i",)]


def test_times_of_pandas(spark: SparkSession, tmp_path: Path) -> None:
    texts = ["2026-03-08 12:00:00.123456789", "1969-12-31 23:59:59.999999999", "2026-03-08 00:00:00"]
    frame = pd.DataFrame(
        {
            "at": pd.to_datetime(texts, format="ISO8601"),
            "zoned": pd.to_datetime(texts, format="ISO8601", utc=True),
            "n": [1, 2, 3],
        }
    )
    assert str(frame["at"].dtype) == "datetime64[ns]"
    frame.to_parquet(tmp_path / "t.parquet")
    found = read(spark, tmp_path / "t.parquet")
    assert [kind for _, kind in found.dtypes] == ["timestamp", "timestamp", "bigint"]
    exact = [
        datetime(2026, 3, 8, 12, 0, 0, 123456, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(2026, 3, 8, tzinfo=UTC),
    ]
    micros = found.selectExpr("unix_micros(at) AS a", "unix_micros(zoned) AS z").collect()
    expected = [round((one - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1_000_000) for one in exact]
    assert [(row["a"], row["z"]) for row in micros] == [(one, one) for one in expected]


def test_columns_with_dots_and_backticks(spark: SparkSession, tmp_path: Path) -> None:
    pq.write_table(pa.table({"user.id": ["u"], "a`b": [1], "n": [2]}), tmp_path / "t.parquet")
    frame = read(spark, tmp_path / "t.parquet")
    require_columns(frame, ["user.id", "a`b"], "items")
    assert values(frame.select(quoted("user.id"), quoted("a`b"))) == [("u", 1)]
    with pytest.raises(InputError, match="differ in more than capitals"):
        require_columns(spark.createDataFrame([(1, 2)], "id int, ID int"), ["id"], "items")


def two_types(folder: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), folder / "a.parquet")
    pq.write_table(pa.table({"x": ["q"]}), folder / "b.parquet")


def text_among(folder: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), folder / "a.parquet")
    (folder / "b.parquet").write_text("not Parquet at all")


def cut(folder: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), folder / "a.parquet")
    pq.write_table(pa.table({"x": list(range(1000))}), folder / "b.parquet")
    whole = (folder / "b.parquet").read_bytes()
    (folder / "b.parquet").write_bytes(whole[: len(whole) // 2])


def csv_alone(folder: Path) -> None:
    (folder / "b.parquet").write_text("x,y\n1,2\n")


@pytest.mark.parametrize(
    ("fill", "told"),
    [
        (two_types, r"one type per column, got \w+ and \w+ for \[x\]"),
        (text_among, "whole and of the format named"),
        (cut, "whole and of the format named"),
        (csv_alone, "whole and of the format named"),
        (lambda folder: None, "items must be readable.*UNABLE_TO_INFER_SCHEMA"),
    ],
)
def test_unreadable_files_are_named(
    spark: SparkSession, tmp_path: Path, fill: Callable[[Path], None], told: str
) -> None:
    fill(tmp_path)
    with pytest.raises(InputError, match=told) as caught:
        values(read(spark, tmp_path))
    assert ".parquet'" in str(caught.value) or "[x]" in str(caught.value) or "UNABLE" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("view", "told"),
    [
        ("SELECT CAST(concat('a', id) AS INT) AS x FROM range(3)", "CAST_INVALID_INPUT"),
        ("SELECT id / 0 AS x FROM range(3)", "DIVIDE_BY_ZERO"),
        ("SELECT raise_error(concat('no ', id)) AS x FROM range(3)", "USER_RAISED_EXCEPTION"),
        ("SELECT (SELECT id FROM range(3)) AS x", "SCALAR_SUBQUERY_TOO_MANY_ROWS"),
        ("SELECT array(1)[id] AS x FROM range(3)", "INVALID_ARRAY_INDEX"),
        ("SELECT inverse(id) AS x FROM range(3)", "ZeroDivisionError: .* in a function of its view"),
    ],
)
def test_a_view_that_fails_is_a_sentence(spark: SparkSession, view: str, told: str) -> None:
    spark.udf.register("inverse", lambda number: 1 // number, "int")
    spark.sql(view).createOrReplaceTempView("failing")
    with pytest.raises(InputError, match=told):
        values(read_source(spark, Source(table="failing"), "items"))


def test_a_missing_source_is_named(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"items\.path must exist, got .*nowhere"):
        read(spark, tmp_path / "nowhere")
    with pytest.raises(InputError, match="items must be readable.*nowhere"):
        read_source(spark, Source(table="shop.nowhere"), "items")


def nested(folder: Path, *names: str, empty: str | None = None) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"item": [name]}), folder / name)
    if empty is not None:
        (folder / empty).touch()


@pytest.mark.parametrize(
    ("names", "empty", "told"),
    [
        (["shop=1/a.parquet", "b.parquet"], None, "all files must be in the folder"),
        (["a.parquet", "more/b.parquet"], None, "all files must be in the folder"),
        (["more/b.parquet"], None, "all files must be in the folder"),
        (["shop=1/a.parquet", "store=2/b.parquet"], None, "all files must be in the folder"),
        (["shop=1/a.parquet", "shop=2/day=3/b.parquet"], None, "all files must be in the folder"),
        (["a.parquet"], "b.parquet", "every file must be whole .* got '.*b.parquet'"),
    ],
)
def test_no_file_is_left_out_in_silence(
    spark: SparkSession, tmp_path: Path, names: list[str], empty: str | None, told: str
) -> None:
    nested(tmp_path, *names, empty=empty)
    with pytest.raises(InputError, match=told):
        values(read(spark, tmp_path))


def test_files_that_spark_hides_are_no_data(spark: SparkSession, tmp_path: Path) -> None:
    nested(tmp_path, "shop=1/day=2/a.parquet", "shop=2/day=2/b.parquet")
    nested(tmp_path, "_temporary/c.parquet", ".d.parquet", empty="_SUCCESS")
    assert [row[1:] for row in values(read(spark, tmp_path))] == [("1", "2"), ("2", "2")]


def lost_rows(spark: SparkSession, folder: Path) -> None:
    for _ in range(2):
        spark.range(3).write.format("delta").mode("overwrite").save(str(folder))


def test_tables_of_other_formats_within_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    lost_rows(spark, tmp_path / "shops" / "shop=1")
    with pytest.raises(InputError, match=r"one table, got .*/shops' above the Delta table .*shop=1'"):
        read(spark, tmp_path / "shops")
    nested(tmp_path / "ice", "a.parquet")
    (tmp_path / "ice" / "metadata").mkdir()
    (tmp_path / "ice" / "metadata" / "00000-a.metadata.json").write_text("{}")
    with pytest.raises(InputError, match="Iceberg"):
        read(spark, tmp_path / "ice")
    nested(tmp_path / "plain", "a.parquet")
    with pytest.raises(InputError, match="got delta for .* without _delta_log"):
        read(spark, tmp_path / "plain", format="delta")
    with pytest.raises(InputError, match=r"items\.version must be of a Delta table, got 3 for parquet"):
        read(spark, tmp_path / "plain", version=3)


@pytest.mark.parametrize(
    "kinds",
    [
        (pa.timestamp("ns"), pa.timestamp("us")),
        (pa.timestamp("us"), pa.timestamp("ns")),
        (pa.int64(), pa.string()),
        (pa.float32(), pa.float64()),
        (pa.int32(), pa.int64()),
    ],
    ids=str,
)
def test_files_of_two_types_are_refused_in_any_order(
    spark: SparkSession, tmp_path: Path, kinds: tuple[pa.DataType, pa.DataType]
) -> None:
    for name, kind in zip("ab", kinds, strict=True):
        pq.write_table(pa.table({"n": ["i"], "x": pa.array([None], kind)}), tmp_path / f"{name}.parquet")
    with pytest.raises(InputError, match=r"one type per column, got \w+ and \w+ for \[x\]") as caught:
        values(read(spark, tmp_path))
    assert "\n" not in str(caught.value)


def test_a_column_that_files_lack_is_missing_there(spark: SparkSession, tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"n": [2], "x": ["q"]}), tmp_path / "b.parquet")
    assert values(read(spark, tmp_path).select("n", "x")) == [(1, None), (2, "q")]

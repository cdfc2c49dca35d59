"""Tables of nodes on Spark: types to features or a refusal, rows set aside, sums that no order changes."""

from __future__ import annotations

import math
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from walkbits.errors import InputError
from walkbits.ingest.features import hashed, learn, moments, vectors
from walkbits.ingest.nodes import check_nodes, no_columns, select_nodes, usable
from walkbits.ingest.space import FeatureSpace, layout_of, width_of
from walkbits.input_settings import Contexts, Items
from walkbits.settings import Features

DAYS = (date(2026, 1, 1) - date(1970, 1, 1)).days


def items(**columns: Any) -> Items:
    return Items(path="x", item="id", **columns)


def selected(spark: SparkSession, rows: list[tuple[Any, ...]], schema: str, spec: Items) -> DataFrame:
    return select_nodes(spark.createDataFrame(rows, f"id string, {schema}"), spec, "items")


def checked(frame: DataFrame, spec: Items, limit: float = 0.0) -> None:
    check_nodes(frame, spec, "items", limit)


def test_repeated_and_null_ids_are_refused(spark: SparkSession) -> None:
    spec = Contexts(path="x", context="id")

    def check(ids: list[str | None]) -> None:
        frame = spark.createDataFrame([(i,) for i in ids], "id string")
        check_nodes(select_nodes(frame, spec, "contexts"), spec, "contexts", 0.0)

    check(["a", "b"])
    with pytest.raises(InputError, match="contexts: ids must be unique, got 1 repeated ids, e.g. 'a'"):
        check(["a", "b", "a"])
    with pytest.raises(InputError, match="contexts: ids must not be null, got 1"):
        check(["a", None])


def test_nan_is_refused_and_null_is_not(spark: SparkSession) -> None:
    spec = items(numeric=("price",))
    rows: list[tuple[Any, ...]] = [("a", 1.0), ("b", None)]
    checked(selected(spark, rows, "price double", spec), spec)
    for bad in (math.nan, math.inf, -math.inf):
        worse = selected(spark, [*rows, ("c", bad)], "price double", spec)
        with pytest.raises(InputError, match=r"items\.price must be finite or null, got 1 other rows.*\"c\""):
            checked(worse, spec, limit=1.0)


def test_text_that_is_no_number_is_refused(spark: SparkSession) -> None:
    spec = items(numeric=("price",))
    frame = selected(spark, [("a", " 1.5 "), ("b", ""), ("c", "cheap")], "price string", spec)
    with pytest.raises(InputError, match=r"items\.price .* got 1 other rows.*cheap"):
        checked(frame, spec)


@pytest.mark.parametrize("kind", ["struct<a:int>", "array<string>", "map<string,string>", "binary"])
def test_a_name_is_one_value(spark: SparkSession, kind: str) -> None:
    frame = spark.createDataFrame([], f"id string, x {kind}")
    with pytest.raises(InputError, match=r"items\.x must be text or a number, got"):
        select_nodes(frame, items(name="x"), "items")


def test_words_of_text_and_lists(spark: SparkSession) -> None:
    spec = items(text=("title", "tags"), categorical=("brand",))
    rows = [("a", "Red-Wine 75cl", ["Dry", None, "old"], 7), ("b", None, None, None)]
    found = selected(spark, rows, "title string, tags array<string>, brand int", spec).collect()
    assert {r["id"]: (r["text"], r["categorical"]) for r in found} == {
        "a": (["red", "wine", "75cl", "dry", "old"], ["brand=7"]),
        "b": ([], []),
    }


@pytest.mark.parametrize(
    ("kind", "value", "labels"),
    [
        ("string", "Rot", ["x=Rot"]),
        ("string", None, []),
        ("bigint", 2**53 + 1, ["x=9007199254740993"]),
        ("boolean", False, ["x=false"]),
        ("decimal(10,2)", Decimal("1.50"), ["x=1.50"]),
        ("date", date(2026, 1, 1), ["x=2026-01-01"]),
        ("timestamp", datetime(2026, 1, 1, 12), ["x=2026-01-01 12:00:00"]),
        ("array<string>", ["b", "a", "b", None], ["x=b", "x=a"]),
        ("array<string>", [], []),
        ("array<string>", None, []),
        ("array<int>", [3, 1], ["x=3", "x=1"]),
    ],
)
def test_labels_by_type(spark: SparkSession, kind: str, value: Any, labels: list[str]) -> None:
    frame = spark.createDataFrame([("a", value)], f"id string, x {kind}")
    if kind == "timestamp":  # Python's own zone must not matter
        frame = frame.withColumn("x", F.lit("2026-01-01 12:00:00").cast("timestamp"))
    assert select_nodes(frame, items(categorical=("x",)), "items").collect()[0]["categorical"] == labels


@pytest.mark.parametrize(
    ("kind", "text", "number"),
    [
        ("boolean", "true", 1.0),
        ("decimal(20,3)", "12.125", 12.125),
        ("tinyint", "-3", -3.0),
        ("float", "0.5", 0.5),
        ("date", "2026-01-01", DAYS),
        ("timestamp", "2026-01-01 06:00:00", DAYS + 0.25),
        ("timestamp", "2026-01-01T06:00:00+06:00", float(DAYS)),
        ("timestamp_ntz", "2026-01-01 06:00:00", DAYS + 0.25),
        ("date", None, None),
    ],
)
def test_numbers_by_type(spark: SparkSession, kind: str, text: str | None, number: float | None) -> None:
    frame = spark.createDataFrame([("a", text)], "id string, x string")
    frame = frame.withColumn("x", F.col("x").cast(kind))
    assert select_nodes(frame, items(numeric=("x",)), "items").collect()[0]["numbers"] == [number]


UNUSABLE = {
    "text": ["struct<a:int>", "map<string,int>", "array<array<string>>", "binary", "array<struct<a:int>>"],
    "categorical": ["struct<a:int>", "map<string,int>", "array<array<string>>", "binary", "double", "array<float>"],
    "numeric": ["struct<a:int>", "map<string,int>", "array<double>", "binary", "interval day to second"],
    "vectors": ["struct<a:int>", "array<array<double>>", "array<int>", "array<string>", "float", "binary"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("group", "kind"), [(group, kind) for group, kinds in UNUSABLE.items() for kind in kinds]
)
def test_any_other_type_is_refused_by_column_and_type(spark: SparkSession, group: str, kind: str) -> None:
    frame = spark.createDataFrame([], f"id string, odd {kind}")
    spec = items(**{group: {"odd": 3} if group == "vectors" else ("odd",)})
    with pytest.raises(InputError) as caught:
        select_nodes(frame, spec, "items")
    shown = frame.schema["odd"].dataType.simpleString()
    assert str(caught.value).startswith("items.odd must be ")
    assert f", got {shown}; cast it at its source or leave it out" in str(caught.value)
    assert caught.value.exit_code == 2


def test_unusable_vectors_are_counted_by_reason_and_set_aside(spark: SparkSession) -> None:
    rows = [
        ("a", [1.0, 2.0], [1.0]), ("b", None, [1.0]), ("c", [1.0], [1.0]), ("d", [1.0, 2.0, 3.0], [1.0]),
        ("e", [1.0, math.nan], [1.0]), ("f", [-math.inf, 1.0], [1.0]), ("g", [None, 1.0], [1.0]),
        ("h", [1.0, 2.0], None), ("i", [], [1.0]),
    ]  # fmt: skip
    spec = items(vectors={"image": 2, "sound": 1})
    frame = selected(spark, rows, "image array<float>, sound array<double>", spec)
    assert {r["id"]: r["reason"] for r in frame.collect()} == {
        "a": None,
        "b": "image is null",
        "c": "image does not hold 2 numbers",
        "d": "image does not hold 2 numbers",
        "e": "image holds a null, NaN or infinity",
        "f": "image holds a null, NaN or infinity",
        "g": "image holds a null, NaN or infinity",
        "h": "sound is null",
        "i": "image does not hold 2 numbers",
    }
    checked(frame, spec, limit=8 / 9)
    with pytest.raises(
        InputError,
        match=r"at most 0.5 of the items may be set aside, got 8 of 9 \(3 x image does not hold 2 numbers, "
        r"3 x image holds a null, NaN or infinity, 1 x image is null, 1 x sound is null\)",
    ):
        checked(frame, spec, limit=0.5)
    assert [r["vectors"] for r in usable(frame).collect()] == [[1.0, 2.0, 1.0]]


def test_a_repeated_id_that_is_set_aside_is_no_repetition(spark: SparkSession) -> None:
    spec = items(vectors={"image": 1})
    checked(selected(spark, [("a", [1.0]), ("a", None)], "image array<float>", spec), spec, limit=0.5)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(
            st.one_of(st.none(), st.floats(-1e6, 1e6)),
            st.sampled_from([1e-300, 3e-300, None]),
            st.sampled_from([1.7e308, -1.7e308, 1.0]),
            st.integers(10**15, 10**15 + 50).map(float),
        ),
        min_size=1,
        max_size=40,
    )
)
def test_moments_are_those_of_numpy_in_any_order(spark: SparkSession, rows: list[tuple[Any, ...]]) -> None:
    schema = "a double, b double, c double, d double"
    columns = [F.col(name) for name in "abcd"]
    means, scales = moments(spark.createDataFrame(rows, schema), columns)
    again = moments(spark.createDataFrame(rows[::-1], schema).repartition(5), columns)
    np.testing.assert_array_equal([means, scales], again)
    for i in range(4):
        given = np.array([row[i] for row in rows if row[i] is not None], dtype=np.longdouble)
        unit = float(np.abs(given).max(initial=0.0)) * 2.0**-38
        mean = given.mean() if len(given) else 0.0
        deviation = float(np.sqrt(((given - mean) ** 2).mean())) if len(given) else 0.0
        assert abs(means[i] - float(mean)) <= unit
        assert abs((scales[i] if deviation > 8 * unit else deviation) - deviation) <= 4 * unit
        assert scales[i] > 0


def test_groups_are_laid_out_and_normalised_each_on_its_own(spark: SparkSession) -> None:
    spec = items(text=("title",), categorical=("tags",), numeric=("price",), vectors={"image": 2})
    options = Features(text_buckets=256, width=8, degree=("item",))
    layout = layout_of(options, spec, "item")
    assert [(g.name, g.start, g.stop) for g in layout] == [
        ("text", 0, 8), ("categorical", 8, 16), ("numeric", 16, 17), ("image", 17, 19), ("degree", 19, 20),
    ]  # fmt: skip
    rows = [
        ("a", "red wine", ["x", "y"], 1.0, [3.0, 4.0], 0),
        ("b", "red", [], 3.0, [0.0, 0.0], 5),
        ("c", None, None, None, [1e200, -1e200], 2),
    ]
    schema = "id string, title string, tags array<string>, price double, image array<double>, degree bigint"
    frame = spark.createDataFrame(rows, schema)
    keys = frame.select("id", (F.ascii("id") - 97).cast("bigint").alias("node_id"), "degree")
    nodes = hashed(select_nodes(frame, spec, "items"), options)
    learned = learn(nodes, keys, layout, options)
    assert sorted(learned) == [
        "categorical.idf", "degree.means", "degree.scales", "numeric.means", "numeric.scales", "text.idf",
    ]  # fmt: skip
    space = FeatureSpace(5, {"item": layout}, {f"item.{name}": one for name, one in learned.items()})

    def embedded(shape: DataFrame) -> np.ndarray:
        found = sorted(vectors(shape, keys, space, "item").collect())
        assert [r["node_id"] for r in found] == [0, 1, 2]
        return np.array([np.frombuffer(r["features"], "<f4") for r in found])

    whole = embedded(nodes)
    assert whole.shape == (3, width_of(layout))
    lengths = {g.name: np.linalg.norm(whole[:, g.start : g.stop].astype(np.float64), axis=1) for g in layout}
    np.testing.assert_allclose(lengths["text"], [1, 1, 0], atol=1e-6)
    np.testing.assert_allclose(lengths["categorical"], [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(whole[:, 16], [-1, 1, 0], atol=1e-6)
    np.testing.assert_allclose(whole[:, 17:19], [[0.6, 0.8], [0, 0], [0.5**0.5, -(0.5**0.5)]], atol=1e-6)
    logs = np.log1p([0, 5, 2])
    np.testing.assert_allclose(whole[:, 19], (logs - logs.mean()) / logs.std(), atol=1e-5)
    np.testing.assert_array_equal(embedded(nodes.orderBy(F.desc("id")).repartition(3)), whole)


def test_degree_alone_needs_no_table(spark: SparkSession) -> None:
    options = Features(text_buckets=256, degree=("context",))
    layout = layout_of(options, None, "context")
    assert [(g.name, g.start, g.stop) for g in layout] == [("degree", 0, 1)]
    assert layout_of(options, None, "item") == ()
    keys = spark.createDataFrame([("x", 7, 1), ("y", 8, 3)], "id string, node_id bigint, degree bigint")
    nodes = hashed(no_columns(keys), options)
    learned = learn(nodes, keys, layout, options)
    space = FeatureSpace(0, {"context": layout}, {f"context.{name}": one for name, one in learned.items()})
    found = {
        r["node_id"]: np.frombuffer(r["features"], "<f4").tolist()
        for r in vectors(nodes, keys, space, "context").collect()
    }
    assert found == {7: [pytest.approx(-1.0)], 8: [pytest.approx(1.0)]}

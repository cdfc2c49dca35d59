"""What is missing, unreadable or small in events: set aside, refused or kept in proportion."""

from __future__ import annotations

import math
from collections import Counter
from datetime import date
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from walkbits.errors import InputError
from walkbits.ingest import interactions as ingest
from walkbits.ingest.sources import as_number
from walkbits.input_settings import Interactions

DAY = date(2026, 3, 8)
WEIGHTED = Interactions(path="x", item="item", context="context", weight="weight")


def selected(spark: SparkSession, rows: list[tuple[Any, Any, Any]]) -> DataFrame:
    frame = spark.createDataFrame(rows, "item string, context string, weight double")
    return ingest.select_interactions(frame, WEIGHTED, DAY)


def test_what_is_missing_is_set_aside_by_its_name(spark: SparkSession) -> None:
    rows = [("a", "x", 1.0), ("", "x", 1.0), ("a", "x", None)]
    rows += [("a", blank, 1.0) for blank in (" ", "\t", "\u00a0", "\u3000 ", "\r\n")]
    reasons = Counter(r["reason"] for r in selected(spark, rows).collect())
    assert reasons == {None: 1, "no item id": 1, "no context id": 5, "no weight": 1}


def test_texts_are_numbers_as_people_write_them(spark: SparkSession) -> None:
    texts = {"1": 1.0, " 2.5 ": 2.5, "1e3": 1000.0, ".5": 0.5, "+4.": 4.0, "": None, " ": None}
    texts |= dict.fromkeys(
        ["5f", "5d", "0x10", "1,5", "1_000", "inf", "Infinity", "NaN", "1e", "."], math.nan
    )
    frame = spark.createDataFrame([(text,) for text in texts], "t string")
    found = {row[0]: row[1] for row in frame.select("t", as_number(frame, "t", "items")).collect()}
    assert str(found) == str(texts)


def test_small_weights_keep_their_proportion(spark: SparkSession) -> None:
    weights = [1 / (1 + k) ** 3 for k in range(300)]
    frame = selected(spark, [(f"i{k}", "x", w) for k, w in enumerate(weights)])
    unit = ingest.weight_unit(frame)
    edges = {e["item_id"]: e["weight"] * unit for e in ingest.aggregate_edges(frame, 1e6, unit).collect()}
    assert edges == {f"i{k}": pytest.approx(w, rel=1e-3) for k, w in enumerate(weights)}


@pytest.mark.parametrize(
    ("weights", "unit"),
    [
        ([0.0], 2.0**-20),
        ([1.0, 0.5], 2.0**-20),
        ([1e-9, 1.0], 2.0**-40),
        ([1e-300, 1e-301], None),
        ([1e300, 1e299], None),
        ([1e6], 2.0**-20),
    ],
)
def test_a_positive_weight_is_never_zero(
    spark: SparkSession, weights: list[float], unit: float | None
) -> None:
    frame = selected(spark, [(f"i{k}", "x", w) for k, w in enumerate(weights)])
    found = ingest.weight_unit(frame)
    assert unit is None or found == unit
    assert ingest.aggregate_edges(frame, 1e6, found).count() == sum(w > 0 for w in weights)


@pytest.mark.parametrize(("low", "high"), [(1e-300, 1.0), (1.0, 1e300), (5e-324, 5e-324)])
def test_weights_too_far_apart_are_refused(spark: SparkSession, low: float, high: float) -> None:
    rows = selected(spark, [("a", "x", low), ("b", "x", high), ("c", "x", 0.0)])
    with pytest.raises(InputError, match=r'interactions\.weight: .* must be at least .*got .*"item":"a"'):
        ingest.check_events(rows, WEIGHTED, "interactions", 0.0)


TIMES = {
    "2026-03-08": 0,
    "2026-03-08 23:59:59.999999999": 0,
    "2026-03-08T23:30:00-05:00": 1,
    "2026-03-09T00:30:00+0100": 0,
    "2026-03-08T12:00:00.000Z": 0,
    " 2026-03-09 ": 1,
    "31.01.2026": None,
    "2026": None,
    "202601": None,
    "12:00": None,
    "1772928000": None,
    "2026-02-30": None,
    "soon": None,
}


def test_text_times_are_utc_days_and_offsets_count(spark: SparkSession) -> None:
    spec = Interactions(path="x", item="t", context="t", timestamp="t")
    frame = spark.createDataFrame([(t,) for t in TIMES], "t string")
    rows = ingest.judged_interactions(frame, spec, DAY).collect()
    base = (DAY - date(1970, 1, 1)).days
    found = {r["item_id"]: None if r["broken"] == "timestamp" else r["day"] - base for r in rows}
    assert found == TIMES
    judged = ingest.select_interactions(frame, spec, DAY)
    with pytest.raises(
        InputError, match=r"interactions\.t must be a time such as 2026-01-31.* got 7 other rows"
    ):
        ingest.check_events(judged, spec, "interactions", 0.5)


@pytest.mark.parametrize("kind", ["bigint", "string"])
@pytest.mark.parametrize(
    ("unit", "factor"), [("seconds", 1), ("milliseconds", 10**3), ("nanoseconds", 10**9)]
)
def test_epochs_by_a_setting(spark: SparkSession, kind: str, unit: str, factor: int) -> None:
    second = 1772927999  # 2026-03-07 23:59:59
    frame = spark.createDataFrame(
        [("a", second * factor), ("b", (second + 1) * factor), ("c", -1), ("d", None)], "i string, t bigint"
    )
    frame = frame.select("i", F.col("t").cast(kind))
    spec = Interactions(path="x", item="i", context="i", timestamp="t", timestamp_unit=unit)
    rows = {r["item_id"]: r for r in ingest.judged_interactions(frame, spec, DAY).collect()}
    assert rows["b"]["day"] - rows["a"]["day"] == 1
    assert rows["b"]["day"] == (DAY - date(1970, 1, 1)).days
    assert rows["c"]["day"] == -1
    assert rows["d"]["reason"] == "no timestamp"
    if kind == "bigint":
        with pytest.raises(InputError, match=r"got long; .*timestamp_unit"):
            ingest.judged_interactions(frame, spec.model_copy(update={"timestamp_unit": None}), DAY)


def test_decimals_without_a_scale_are_ids(spark: SparkSession) -> None:
    frame = spark.sql(
        "SELECT CAST('12345678901234567890' AS DECIMAL(20,0)) AS i, CAST(1.5 AS DECIMAL(3,1)) AS x"
    )
    spec = Interactions(path="x", item="i", context="i")
    assert ingest.select_interactions(frame, spec, DAY).collect()[0]["item_id"] == "12345678901234567890"
    with pytest.raises(InputError, match="string or integer id, got decimal"):
        ingest.select_interactions(frame, Interactions(path="x", item="x", context="i"), DAY)

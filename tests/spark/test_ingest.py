"""Rows to graph on Spark, against dictionaries and sorted lists."""

from __future__ import annotations

from collections import Counter
from datetime import date
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from walkbits.errors import ConfigError, EmptyInputError, InputError
from walkbits.ingest import interactions as ingest
from walkbits.input_settings import Impressions, Interactions
from walkbits.schemas import WEIGHT_SCALE
from walkbits.settings import Holdout

DAY = date(2026, 3, 8)
HARD_IDS = [
    "9223372036854775807",
    "-9223372036854775808",
    "9007199254740993",
    "a'b\"c",
    "é\n",
    "Z",
    "",
    "007",
    "7",
]


WEIGHTED = Interactions(path="x", item="item", context="context", weight="weight")


def selected(spark: SparkSession, rows: list[tuple[Any, Any, Any]]) -> DataFrame:
    frame = spark.createDataFrame(rows, "item string, context string, weight double")
    return ingest.select_interactions(frame, WEIGHTED, DAY)


def judged(spark: SparkSession, rows: list[tuple[Any, Any, Any]], items: list[str]) -> DataFrame:
    known = spark.createDataFrame([(i,) for i in items], "id string")
    return ingest.with_reason(selected(spark, rows), {"item": (known, "item table")})


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ids=st.sets(
        st.text(max_size=5).filter(lambda t: "\x00" not in t and t.isprintable()), min_size=1, max_size=60
    )
)
def test_index_is_the_rank_in_utf8_order(spark: SparkSession, ids: set[str]) -> None:
    frame = spark.createDataFrame([(i,) for i in ids], "id string").repartition(4)
    found = {row["id"]: row["index"] for row in ingest.with_index(frame, "id").collect()}
    assert found == {one: rank for rank, one in enumerate(sorted(ids, key=str.encode))}


def test_index_is_exact_across_many_buckets(spark: SparkSession) -> None:
    frame = spark.range(3000).select(F.concat(F.lit("k"), (F.col("id") * 7919) % 100003).alias("id"))
    rows = ingest.with_index(frame, "id", ids_per_bucket=50).collect()
    assert [r["id"] for r in sorted(rows, key=lambda r: r["index"])] == sorted(r["id"] for r in rows)
    assert sorted(r["index"] for r in rows) == list(range(3000))


def test_hard_ids_round_trip(spark: SparkSession) -> None:
    frame = spark.createDataFrame([(i,) for i in HARD_IDS], "id string")
    rows = ingest.with_index(frame, "id").collect()
    assert sorted(r["id"] for r in rows) == sorted(HARD_IDS)


def test_integer_ids_are_exact_text(spark: SparkSession) -> None:
    frame = spark.createDataFrame([(2**53 + 1, -(2**63))], "item bigint, context bigint")
    spec = Interactions(path="x", item="item", context="context")
    row = ingest.select_interactions(frame, spec, DAY).collect()[0]
    assert (row["item_id"], row["context_id"]) == ("9007199254740993", "-9223372036854775808")


def test_edges_sum_weights_exactly_and_drop_zero(spark: SparkSession) -> None:
    rows = [("a", "x", 0.1)] * 10 + [("a", "y", 0.0), ("b", "x", 2.5)]
    edges = ingest.aggregate_edges(selected(spark, rows), 1e6).collect()
    found = {(e["item_id"], e["context_id"]): (e["weight"], e["interactions"]) for e in edges}
    assert found == {
        ("a", "x"): (10 * round(0.1 * WEIGHT_SCALE), 10),
        ("b", "x"): (int(2.5 * WEIGHT_SCALE), 1),
    }


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_bad_weights_are_refused_with_an_example(spark: SparkSession, bad: float | None) -> None:
    rows = judged(spark, [("a", "x", 1.0), ("a", "y", bad)], ["a"])
    with pytest.raises(
        InputError, match=r'interactions\.weight must be finite and >= 0, got 1 other rows.*"y"'
    ):
        ingest.check_events(rows, WEIGHTED, "interactions", 0.5)


def test_huge_weight_is_refused_not_overflowed(spark: SparkSession) -> None:
    edges = ingest.aggregate_edges(selected(spark, [("a", "x", 1e308)] * 3 + [("b", "y", 1.0)]), 1e6)
    with pytest.raises(InputError, match="max_edge_weight.*'a'"):
        ingest.check_edge_weights(edges, 1e6)


def test_no_edge_at_all_is_empty_input(spark: SparkSession) -> None:
    with pytest.raises(EmptyInputError, match="interactions"):
        ingest.check_edge_weights(ingest.aggregate_edges(selected(spark, [("a", "x", 0.0)]), 1e6), 1e6)


def test_rows_to_set_aside_are_counted_by_reason(spark: SparkSession) -> None:
    rows = [("a", "x", 1.0), (None, "x", 1.0), ("a", None, 1.0), ("ghost", "x", 1.0)]
    found = judged(spark, rows, ["a"])
    reasons = Counter(r["reason"] for r in found.collect())
    assert reasons == {None: 1, "no item id": 1, "no context id": 1, "item is not in the item table": 1}
    ingest.check_events(found, WEIGHTED, "interactions", 0.75)
    with pytest.raises(
        InputError, match=r"got 3 of 4 \(1 x item is not in the item table, 1 x no context id"
    ):
        ingest.check_events(found, WEIGHTED, "interactions", 0.7)


def test_window_is_whole_utc_days(spark: SparkSession) -> None:
    times = ["2026-03-06 23:59:59", "2026-03-07 00:00:00", "2026-03-08 23:59:59", "2026-03-09 00:00:00"]
    frame = spark.createDataFrame([(t, "c") for t in times], "at string, c string")
    frame = frame.withColumn("i", F.col("at")).withColumn("at", F.to_timestamp("at"))
    spec = Interactions(path="x", item="i", context="c", timestamp="at", lookback_days=2)
    assert sorted(r["item_id"] for r in ingest.select_interactions(frame, spec, DAY).collect()) == times[1:3]


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("item string", r"columns \['context', 'weight'\] must exist"),
        (
            "item double, context string, weight double",
            "interactions.item must be a string or integer id, got double",
        ),
        (
            "item string, context string, weight array<int>",
            "interactions.weight must be numeric, got array<int>",
        ),
    ],
)
def test_unusable_columns_are_refused(spark: SparkSession, schema: str, message: str) -> None:
    spec = Interactions(path="x", item="item", context="context", weight="weight")
    with pytest.raises(InputError, match=message):
        ingest.select_interactions(spark.createDataFrame([], schema), spec, DAY)


def test_hold_out_takes_one_item_of_big_contexts_and_ignores_order(spark: SparkSession) -> None:
    pairs = [(f"i{i}", f"c{c}") for c in range(40) for i in range(c % 7 + 1)]
    edges = spark.createDataFrame(pairs, "item_id string, context_id string")
    spec = Holdout(contexts=12, min_items=5)
    held = sorted(tuple(r) for r in ingest.hold_out(edges, spec, 3).collect())
    shuffled = edges.orderBy(F.xxhash64("item_id", "context_id")).repartition(5)
    assert held == sorted(tuple(r) for r in ingest.hold_out(shuffled, spec, 3).collect())
    assert len(held) == 12
    assert len({context for _, context in held}) == 12
    assert set(held) <= set(pairs)
    assert all(int(context[1:]) % 7 + 1 >= 5 for _, context in held)
    assert held != sorted(tuple(r) for r in ingest.hold_out(edges, spec, 4).collect())


@pytest.mark.parametrize("split", ["random", "temporal"])
def test_hold_out_takes_a_fraction_of_each_context_and_of_temporal_the_last(
    spark: SparkSession, split: Literal["random", "temporal"]
) -> None:
    # Interactions of one pair at several times: the last one counts. Context c has c % 12 + 1 items.
    rows = [
        (f"i{i}", f"c{c}", 1.0, at) for c in range(60) for i in range(c % 12 + 1) for at in (0, i * 7 % 12)
    ]
    timed = spark.createDataFrame(rows, "item_id string, context_id string, weight double, time int")
    edges = ingest.aggregate_edges(timed.withColumn("time", F.timestamp_seconds("time")), 1e6)
    spec = Holdout(split=split, fraction=0.3, contexts=1000, min_items=4)
    held = {(row.item_id, row.context_id) for row in ingest.hold_out(edges, spec, 3).collect()}
    last: set[tuple[str, str]] = set()
    for c in range(60):
        size = c % 12 + 1
        lost = int(0.3 * size + 1e-9) if size >= 4 else 0
        assert sum(context == f"c{c}" for _, context in held) == lost
        last |= {(f"i{i}", f"c{c}") for i in sorted(range(size), key=lambda i: -(i * 7 % 12))[:lost]}
    assert (held == last) == (split == "temporal")
    fewer = ingest.hold_out(edges, spec.model_copy(update={"contexts": 5}), 3).collect()
    assert len({row.context_id for row in fewer}) == 5
    assert {(row.item_id, row.context_id) for row in fewer} < held


def test_a_temporal_split_needs_times(spark: SparkSession) -> None:
    rows = spark.createDataFrame([("a", "x")], "item string, context string")
    spec = Interactions(path="x", item="item", context="context")
    with pytest.raises(ConfigError, match="temporal needs times"):
        ingest.select_interactions(rows, spec, DAY, timed=True)


def test_nodes_cover_isolated_items(spark: SparkSession) -> None:
    items = ingest.with_index(
        spark.createDataFrame([("b", "B"), ("a", "A"), ("lonely", None)], "item_id string, name string"),
        "item_id",
    )
    contexts = ingest.with_index(
        spark.createDataFrame([("x", "X")], "context_id string, name string"), "context_id"
    )
    edges = ingest.with_indices(
        spark.createDataFrame([("a", "x"), ("b", "x")], "item_id string, context_id string"), items, contexts
    )
    nodes = {r["node_id"]: r for r in ingest.nodes_of(items, contexts, edges, 3).collect()}
    assert [(nodes[i]["node_type"], nodes[i]["external_id"], nodes[i]["degree"]) for i in range(4)] == [
        ("item", "a", 1), ("item", "b", 1), ("item", "lonely", 0), ("context", "x", 2),
    ]  # fmt: skip
    assert [nodes[i]["name"] for i in range(4)] == ["A", "B", None, "X"]
    assert len({n["node_key"] for n in nodes.values()}) == 4


def test_ids_are_known_by_type_and_the_reason_names_the_place(spark: SparkSession) -> None:
    rows = [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y"), (None, "y"), ("b", None)]
    frame = spark.createDataFrame(rows, "item_id string, context_id string")
    events = ingest.select_events(frame, Impressions(path="x"), DAY, "impressions")
    known = {
        "item": (spark.createDataFrame([("a",)], "id string"), "interactions"),
        "context": (spark.createDataFrame([("x",)], "id string"), "context table"),
    }
    found = {tuple(r)[:2]: r["reason"] for r in ingest.with_reason(events, known).collect()}
    assert found == {
        ("a", "x"): None,
        ("a", "y"): "context is not in the context table",
        ("b", "x"): "item is not in the interactions",
        ("b", "y"): "item is not in the interactions",
        (None, "y"): "no item id",
        ("b", None): "no context id",
    }


def test_impressions_have_the_window_and_rules_of_interactions(spark: SparkSession) -> None:
    rows = [
        ("a", "x", "2026-03-08"),
        ("a", "x", "2026-03-07"),
        ("a", "y", "2026-03-06"),
        ("a", "z", "2026-03-09"),
    ]
    frame = spark.createDataFrame(rows, "item string, context string, at string")
    spec = Impressions(path="x", item="item", context="context", timestamp="at", lookback_days=2)
    shown = ingest.select_events(frame, spec, DAY, "impressions")
    assert shown.columns == ["item_id", "context_id", "reason", "broken", "row"]
    assert [tuple(r) for r in ingest.count_pairs(shown).collect()] == [("a", "x", 2)]
    with pytest.raises(InputError, match=r"impressions: columns \['at'\] must exist"):
        ingest.select_events(frame.drop("at"), spec, DAY, "impressions")
    with pytest.raises(InputError, match="impressions.item must be a string or integer id, got float"):
        ingest.select_events(frame.withColumn("item", F.lit(1.5).cast("float")), spec, DAY, "impressions")

"""Rows to graph: clean interactions, dense ids, aggregated edges, held-out edges.

Pure functions on DataFrames. Nothing here depends on the order or partitioning of rows:
ids are exact ranks, weights are summed as integers, draws are hashes of external ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from walkbits.errors import ConfigError, EmptyInputError, InputError
from walkbits.ingest.quarantine import check_set_aside
from walkbits.ingest.sources import as_id, as_number, quoted, require_columns, require_id
from walkbits.input_settings import Events, Interactions
from walkbits.schemas import CONTEXT, ITEM, WEIGHT_SCALE
from walkbits.settings import Holdout
from walkbits.types import NodeType

_MAX_RANK_BUCKETS = 256


def select_interactions(frame: DataFrame, spec: Interactions, ds: date, timed: bool = False) -> DataFrame:
    """Raw rows of the run's window as (item_id, context_id STRING, weight DOUBLE, row STRING).

    Args:
        timed: Add `time` TIMESTAMP, which a temporal split needs.

    Raises:
        ConfigError: times are wanted and no column has them.
        InputError: a mapped column is missing or has an unusable type.
    """
    require_columns(frame, _mapped(spec), "interactions")
    more = {"weight": as_number(frame, spec.weight, "interactions") if spec.weight else F.lit(1.0)}
    if timed:
        if spec.timestamp is None:
            raise ConfigError(
                "evaluation.holdout.split temporal needs times, got no interactions.timestamp; "
                "name the column, or choose random"
            )
        more["time"] = F.col(quoted(spec.timestamp)).cast("timestamp")
    return select_events(frame, spec, ds, "interactions", **more)


def select_events(frame: DataFrame, spec: Events, ds: date, section: str, **more: Column) -> DataFrame:
    """Raw rows of the run's window as (item_id, context_id STRING, the columns of `more`, row STRING).

    Args:
        section: Of the config, for messages.

    Raises:
        InputError: a mapped column is missing or has an unusable type.
    """
    mapped = _mapped(spec)
    require_columns(frame, mapped, section)
    require_id(frame, spec.item, section)
    require_id(frame, spec.context, section)
    if spec.timestamp is not None:
        frame = frame.where(_in_window(frame, spec, ds, section))
    return frame.select(
        as_id(spec.item).alias("item_id"),
        as_id(spec.context).alias("context_id"),
        *[column.alias(name) for name, column in more.items()],
        F.to_json(F.struct(*map(quoted, dict.fromkeys(mapped)))).alias("row"),
    )


def _mapped(spec: Events) -> list[str]:
    """The columns that the config names."""
    weight = spec.weight if isinstance(spec, Interactions) else None
    return [spec.item, spec.context, *filter(None, (weight, spec.timestamp))]


def _in_window(frame: DataFrame, spec: Events, ds: date, section: str) -> Column:
    assert spec.timestamp is not None
    kind = frame.schema[spec.timestamp].dataType.typeName()
    if kind not in ("timestamp", "timestamp_ntz", "date", "string"):
        raise InputError(
            f"{section}.{spec.timestamp} must be a timestamp, date or ISO text, got {kind}; "
            "cast it at its source"
        )
    # A date, not an instant: days are UTC days whatever zone the machine is in.
    day = F.to_date(F.col(quoted(spec.timestamp)))
    window = day <= F.lit(ds)
    if spec.lookback_days is not None:
        window = window & (day > F.lit(ds - timedelta(days=spec.lookback_days)))
    return window


def with_reason(events: DataFrame, known: Mapping[NodeType, tuple[DataFrame, str]]) -> DataFrame:
    """Add `reason`: why a row must be set aside, or null where it is good.

    Args:
        events: (item_id, context_id, ...).
        known: Ids (id) of the node types that are given, each once, and what they are the ids of.
    """
    rows, unknown = events, F.lit(None).cast("string")
    for node_type, (ids, place) in known.items():
        mark = f"_known_{node_type}"
        given = ids.select(F.col("id").alias(f"{node_type}_id"), F.lit(True).alias(mark))
        rows = rows.join(given, f"{node_type}_id", "left")
        reason = F.lit(f"{node_type} is not in the {place}")
        unknown = F.coalesce(unknown, F.when(F.col(mark).isNull(), reason))
    reason = (
        F.when(F.col("item_id").isNull(), "null item id")
        .when(F.col("context_id").isNull(), "null context id")
        .otherwise(unknown)
    )
    return rows.select(*events.columns, reason.alias("reason"))


def check_interactions(judged: DataFrame, weight_column: str | None, max_quarantined: float) -> None:
    """Refuse unusable weights, and more rows to set aside than allowed; one pass.

    Weights must be finite and >= 0; a null is none. NaN compares above any number in
    Spark, so it is asked for by name.

    Args:
        judged: Rows of `with_reason`.

    Raises:
        InputError: with counts per reason and an example.
    """
    weight = F.coalesce(F.col("weight"), F.lit(float("nan")))
    bad_weight = F.isnan(weight) | (weight < 0) | (weight == float("inf"))
    found = (
        judged.groupBy("reason")
        .agg(
            F.count(F.lit(1)).alias("rows"),
            F.count_if(bad_weight).alias("bad"),
            F.min(F.when(bad_weight, F.col("row"))).alias("example"),
        )
        .collect()
    )
    bad = sum(row["bad"] for row in found)
    if bad:
        example = min(row["example"] for row in found if row["bad"])
        raise InputError(
            f"interactions.{weight_column} must be finite and >= 0, got {bad} other rows, e.g. {example}; "
            "mend or filter them at their source"
        )
    check_set_aside("interactions", {row["reason"]: row["rows"] for row in found}, max_quarantined)


def count_pairs(events: DataFrame) -> DataFrame:
    """One row per (item_id, context_id): count BIGINT."""
    return events.groupBy("item_id", "context_id").count()


def with_index(ids: DataFrame, column: str, ids_per_bucket: int = 100_000) -> DataFrame:
    """Add `index INT`: the exact rank of a unique text id, from 0, in UTF-8 byte order.

    Ids fall into buckets between boundaries drawn by hash, each bucket is ranked by
    itself and shifted by the size of those before it. The boundaries only balance the
    work: any others give the same ranks. The driver sees one count per bucket.

    Args:
        ids: Unique, non-null ids in `column`, with any other columns.
        ids_per_bucket: Ids that one task ranks, about; the ranks do not depend on it.
    """
    count = ids.count()
    buckets = max(1, min(_MAX_RANK_BUCKETS, count // ids_per_bucket))
    sample = ids.select(column).orderBy(F.xxhash64(column), column).limit(buckets - 1)
    boundaries = sorted((row[0] for row in sample.collect()), key=str.encode)
    bounds = F.array(*[F.lit(b) for b in boundaries]) if boundaries else F.array().cast("array<string>")
    bucketed = ids.withColumn("_bucket", F.size(F.filter(bounds, lambda b: b <= F.col(column))))
    sizes = {row[0]: row[1] for row in bucketed.groupBy("_bucket").count().collect()}
    offsets, total = [], 0
    for bucket in range(len(boundaries) + 1):
        offsets.append(total)
        total += sizes.get(bucket, 0)
    shift = F.element_at(F.array(*[F.lit(offset) for offset in offsets]), F.col("_bucket") + 1)
    within = F.row_number().over(Window.partitionBy("_bucket").orderBy(column))
    return bucketed.withColumn("index", (shift + within - 1).cast("int")).drop("_bucket")


def aggregate_edges(interactions: DataFrame, max_weight: float) -> DataFrame:
    """One row per (item_id, context_id): weight BIGINT fixed point 2^20, interactions BIGINT.

    Weights add up as integers, so the sum does not depend on row order. Pairs whose
    weight is 0 are not edges. A row beyond `max_weight` stays beyond it. Rows with a `time`
    give the edge that of its last one.
    """
    last = [F.max("time").alias("time")] if "time" in interactions.columns else []
    fixed = F.round(F.least(F.col("weight"), F.lit(max_weight * 2)) * WEIGHT_SCALE).cast("bigint")
    return (
        interactions.withColumn("weight", fixed)
        .groupBy("item_id", "context_id")
        .agg(
            # A sum beyond 64 bits is null, and surely over any bound.
            F.coalesce(F.try_sum("weight"), F.lit(2**63 - 1)).alias("weight"),
            F.count(F.lit(1)).alias("interactions"),
            *last,
        )
        .where(F.col("weight") > 0)
    )


def check_edge_weights(edges: DataFrame, max_weight: float) -> None:
    """Refuse edges over `max_weight`, before their fixed point can overflow.

    Raises:
        InputError: names the heaviest edge.
        EmptyInputError: there are no edges at all.
    """
    heaviest = edges.agg(F.max(F.struct("weight", "item_id", "context_id")).alias("top")).first()
    top = heaviest["top"] if heaviest is not None else None
    if top is None:
        raise EmptyInputError(
            "interactions: at least one row with weight > 0 must lie in the run's window, got none; "
            "check the table, its filter and --ds"
        )
    if top["weight"] > max_weight * WEIGHT_SCALE:
        raise InputError(
            f"ingest.max_edge_weight: an edge's summed weight must be <= {max_weight:g}, got more for item "
            f"{top['item_id']!r} and context {top['context_id']!r}; rescale the weights or raise the bound"
        )


def node_key(node_type: str, column: str) -> Column:
    """64-bit hash of (type, external id): the key of the node's draws, stable from day to day."""
    return F.xxhash64(F.lit(node_type), F.col(column))


def hold_out(edges: DataFrame, spec: Holdout, seed: int) -> DataFrame:
    """The edges to set aside, as (item_id, context_id).

    Contexts with enough items are ordered by keyed hash, and the first `spec.contexts` lose one item, or
    floor(`spec.fraction` * items): those whose keyed hash is smallest, of a temporal split the latest.

    Args:
        edges: (item_id, context_id, ...), of a temporal split with `time`, a null counting as the earliest.
    """
    drawn = F.xxhash64(F.lit(seed), F.lit("holdout item"), F.col("context_id"), F.col("item_id"))
    first = [F.col("time").desc_nulls_last()] if spec.split == "temporal" else []
    of_context = Window.partitionBy("context_id")
    by_item = of_context.orderBy(*first, drawn, F.col("item_id"))
    # 1e-9: a product such as 0.3 * 10 may fall just short of its integer
    lost = F.lit(1) if spec.split == "leave_one_out" else F.floor(F.col("_size") * spec.fraction + 1e-9)
    held = (
        edges.withColumn("_size", F.count(F.lit(1)).over(of_context))
        .where(F.col("_size") >= spec.min_items)
        .withColumn("_order", F.row_number().over(by_item))
        .where(F.col("_order") <= lost)
        .select("item_id", "context_id")
    )
    order = F.xxhash64(F.lit(seed), F.lit("holdout context"), F.col("context_id"))
    chosen = held.select("context_id").distinct().orderBy(order, "context_id").limit(spec.contexts)
    return held.join(chosen, "context_id", "left_semi").select("item_id", "context_id")


def with_indices(edges: DataFrame, items: DataFrame, contexts: DataFrame) -> DataFrame:
    """Replace external ids by indices: (item INT, context INT) and the edges' other columns."""
    item_index = items.select("item_id", F.col("index").alias("item"))
    context_index = contexts.select("context_id", F.col("index").alias("context"))
    return (
        edges.join(item_index, "item_id", "inner")
        .join(context_index, "context_id", "inner")
        .drop("item_id", "context_id")
    )


def nodes_of(items: DataFrame, contexts: DataFrame, edges: DataFrame, num_items: int) -> DataFrame:
    """The node table: both types with key and degree, isolated items with degree 0.

    Args:
        items: (item_id, name, index).
        contexts: (context_id, name, index).
        edges: (item, context) indices.
    """

    def side(frame: DataFrame, node_type: str, id_column: str, offset: int) -> DataFrame:
        degrees = edges.groupBy(F.col(node_type).alias("index")).agg(F.count(F.lit(1)).alias("degree"))
        return frame.join(degrees, "index", "left").select(
            F.lit(node_type).alias("node_type"),
            (F.col("index").cast("bigint") + F.lit(offset)).alias("node_id"),
            F.col(id_column).alias("external_id"),
            "name",
            node_key(node_type, id_column).alias("node_key"),
            F.coalesce(F.col("degree"), F.lit(0)).alias("degree"),
        )

    return side(items, ITEM, "item_id", 0).unionByName(side(contexts, CONTEXT, "context_id", num_items))

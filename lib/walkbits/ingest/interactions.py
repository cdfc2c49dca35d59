"""Rows to graph: clean interactions, dense ids, aggregated edges, held-out edges.

Pure functions on DataFrames. Nothing here depends on the order or partitioning of rows:
ids are exact ranks, weights are summed as integers, draws are hashes of external ids.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date
from typing import Final

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from walkbits.errors import ConfigError, EmptyInputError, InputError
from walkbits.ingest.quarantine import check_set_aside
from walkbits.ingest.sources import as_id, as_number, quoted, require_columns, require_id
from walkbits.ingest.times import RULE, times_of
from walkbits.input_settings import Events, Interactions
from walkbits.schemas import CONTEXT, ITEM, WEIGHT_SCALE
from walkbits.settings import Holdout
from walkbits.types import NodeType

_MAX_RANK_BUCKETS = 256
_LARGEST_BITS: Final = 40
"""The largest weight takes this many bits at most: 2^23 of them fit an edge, or the sum of a node."""
_SMALLEST_BITS: Final = 10
"""The smallest one takes this many where it can: rounded by less than 0.1%."""


def select_interactions(frame: DataFrame, spec: Interactions, ds: date, timed: bool = False) -> DataFrame:
    """`select_events` with weight DOUBLE; a weight that is no finite number >= 0 is broken.

    Args:
        timed: Add `time` TIMESTAMP, which a temporal split needs.

    Raises:
        ConfigError: times are wanted and no column has them.
        InputError: a mapped column is missing or has an unusable type.
    """
    if timed and spec.timestamp is None:
        raise ConfigError(
            "evaluation.holdout.split temporal needs times, got no interactions.timestamp; "
            "name the column, or choose random"
        )
    unused = ["day", "in_window"] if timed else ["day", "in_window", "time"]
    return judged_interactions(frame, spec, ds).where("in_window").drop(*unused)


def judged_interactions(frame: DataFrame, spec: Interactions, ds: date) -> DataFrame:
    """`judged_events` of interactions, with weight DOUBLE."""
    require_columns(frame, _mapped(spec), "interactions")
    weight = as_number(frame, spec.weight, "interactions") if spec.weight else F.lit(1.0)
    # NaN compares above any number in Spark, so it is asked for by name.
    bad = F.isnan("weight") | (F.col("weight") < 0) | (F.col("weight") == float("inf"))
    return judged_events(frame, spec, ds, "interactions", weight=weight).withColumns(
        {
            "reason": F.coalesce("reason", F.when(F.col("weight").isNull(), "no weight")),
            "broken": F.coalesce(F.when(bad, "weight"), "broken"),
        }
    )


def select_events(frame: DataFrame, spec: Events, ds: date, section: str) -> DataFrame:
    """`judged_events` of the run's window, without what the window was found by."""
    return judged_events(frame, spec, ds, section).where("in_window").drop("day", "in_window", "time")


def judged_events(frame: DataFrame, spec: Events, ds: date, section: str, **more: Column) -> DataFrame:
    """All rows with what is wrong with each.

    Returns:
        (item_id, context_id, the columns of `more`, time TIMESTAMP, day BIGINT, in_window BOOLEAN, reason,
        broken, row STRING).

    `reason` says what is missing from a row, which can be set aside; `broken` names the setting whose
    column holds what stops the run. A row without a readable time counts as within the window, so
    that it is not lost.

    Args:
        section: Of the config, for messages.

    Raises:
        InputError: a mapped column is missing or has an unusable type.
    """
    mapped = _mapped(spec)
    require_columns(frame, mapped, section)
    require_id(frame, spec.item, section)
    require_id(frame, spec.context, section)
    no_time, day, time = times_of(frame, spec, section)
    rows = frame.select(
        as_id(spec.item).alias("item_id"),
        as_id(spec.context).alias("context_id"),
        *[column.alias(name) for name, column in more.items()],
        day.alias("day"),
        time.alias("time"),
        no_time.alias("_no_time"),
        F.to_json(F.struct(*map(quoted, dict.fromkeys(mapped)))).alias("row"),
    )
    last = (ds - date(1970, 1, 1)).days
    window = F.col("day") <= last
    if spec.lookback_days is not None:
        window = window & (F.col("day") > last - spec.lookback_days)
    unreadable = F.col("day").isNull() & ~F.col("_no_time") & F.lit(spec.timestamp is not None)
    return rows.select(
        "item_id",
        "context_id",
        *more,
        "time",
        "day",
        F.coalesce(window, F.lit(True)).alias("in_window"),
        F.when(F.col("item_id").isNull(), "no item id")
        .when(F.col("context_id").isNull(), "no context id")
        .when(F.col("_no_time"), "no timestamp")
        .alias("reason"),
        F.when(unreadable, "timestamp").alias("broken"),
        "row",
    )


def _mapped(spec: Events) -> list[str]:
    """The columns that the config names."""
    weight = spec.weight if isinstance(spec, Interactions) else None
    return [spec.item, spec.context, *filter(None, (weight, spec.timestamp))]


def with_reason(events: DataFrame, known: Mapping[NodeType, tuple[DataFrame, str]]) -> DataFrame:
    """Complete `reason`: why a row must be set aside, or null where it is good.

    Args:
        events: (item_id, context_id, reason, ...).
        known: Ids (id) of the node types that are given, each once, and what they are the ids of.
    """
    rows, unknown = events, F.lit(None).cast("string")
    for node_type, (ids, place) in known.items():
        mark = f"_known_{node_type}"
        given = ids.select(F.col("id").alias(f"{node_type}_id"), F.lit(True).alias(mark))
        rows = rows.join(given, f"{node_type}_id", "left")
        reason = F.lit(f"{node_type} is not in the {place}")
        unknown = F.coalesce(unknown, F.when(F.col(mark).isNull(), reason))
    return rows.withColumn("reason", F.coalesce("reason", unknown)).select(*events.columns)


def check_events(judged: DataFrame, spec: Events, section: str, max_quarantined: float) -> None:
    """Refuse unusable weights and times, and more rows to set aside than allowed; one pass.

    Positive weights must be within the range that `weight_unit` keeps.

    Args:
        judged: Rows of `with_reason`.
        section: Of the config, for messages.

    Raises:
        InputError: with counts per reason and an example.
    """
    measured = [F.count(F.lit(1)).alias("rows"), F.min("row").alias("row")]
    if "weight" in judged.columns:
        weighed = F.when(F.col("weight") > 0, F.struct("weight", "row"))
        measured += [F.min(weighed).alias("low"), F.max(weighed).alias("high")]
    rows = judged.groupBy("reason", "broken").agg(*measured).collect()
    broken = []
    for setting, rule in _RULES.items():
        bad = [row for row in rows if row["broken"] == setting]
        if bad:
            count, example = sum(row["rows"] for row in bad), min(row["row"] for row in bad)
            name = getattr(spec, setting)
            broken.append(f"{section}.{name} must be {rule}, got {count} other rows, e.g. {example}")
    if broken:
        raise InputError(f"{'; '.join(broken)}; fix or filter them at their source")
    good = next((row for row in rows if row["reason"] is None), None)
    if good is not None and "low" in good and good["low"] is not None:
        _check_range(good["low"]["weight"], good["high"]["weight"], good["low"]["row"], section)
    reasons: dict[str | None, int] = {}
    for row in rows:
        reasons[row["reason"]] = reasons.get(row["reason"], 0) + row["rows"]
    check_set_aside(section, reasons, max_quarantined)


def _check_range(low: float, high: float, example: str, section: str) -> None:
    """Refuse weights so far apart that the smallest would count as more than it is."""
    unit = unit_of(low, high)
    if low < unit:
        raise InputError(
            f"{section}.weight: positive weights must be at least {unit:g} beside the largest, {high:g}, got "
            f"{low:g}, e.g. {example}; fix the smallest or the largest at their source"
        )


_RULES: Final = {"weight": "finite and >= 0", "timestamp": RULE}


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


def weight_unit(interactions: DataFrame) -> float:
    """`unit_of` the positive weights."""
    positive = F.when(F.col("weight") > 0, F.col("weight"))
    row = interactions.agg(F.min(positive).alias("low"), F.max(positive).alias("high")).collect()[0]
    return 1 / WEIGHT_SCALE if row["low"] is None else unit_of(row["low"], row["high"])


def unit_of(low: float, high: float) -> float:
    """The unit that weights are counted in: a power of two that keeps the smallest and fits the largest.

    2^-20, unless the data's own range asks for another: weights near 1e-8 beside others near 1 are counted
    in smaller units, so that none vanishes.
    """
    bits = max(WEIGHT_SCALE.bit_length() - 1, _SMALLEST_BITS - math.floor(math.log2(low)))
    # no unit below the normal doubles
    return math.ldexp(1.0, -min(bits, _LARGEST_BITS - math.ceil(math.log2(high)), 1022))


def aggregate_edges(interactions: DataFrame, max_weight: float, unit: float = 1 / WEIGHT_SCALE) -> DataFrame:
    """One row per (item_id, context_id): weight BIGINT in `unit`, interactions BIGINT.

    Weights add up as integers, so the sum does not depend on row order. A positive weight is at least
    one unit; pairs whose weight is 0 are not edges. A row beyond `max_weight` stays beyond it. Rows with a
    `time` give the edge that of its last one.
    """
    last = [F.max("time").alias("time")] if "time" in interactions.columns else []
    units = F.round(F.least(F.col("weight"), F.lit(max_weight * 2)) / unit).cast("bigint")
    fixed = F.when(F.col("weight") > 0, F.greatest(units, F.lit(1))).otherwise(F.lit(0))
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


def check_edge_weights(edges: DataFrame, max_weight: float, unit: float = 1 / WEIGHT_SCALE) -> None:
    """Refuse edges over `max_weight`, before their fixed point can overflow.

    Raises:
        InputError: names the heaviest edge.
        EmptyInputError: there are no edges at all.
    """
    heaviest = edges.agg(F.max(F.struct("weight", "item_id", "context_id")).alias("top")).first()
    top = heaviest["top"] if heaviest is not None else None
    if top is None:
        raise EmptyInputError(
            "interactions: at least one row with weight > 0 must be in the run's window, got none; "
            "check the table, its filter and --ds"
        )
    if top["weight"] > min(max_weight / unit, 2**62):
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

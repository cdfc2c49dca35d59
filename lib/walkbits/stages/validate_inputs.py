"""Step `validate_inputs`: every problem of every input at once, and the graph's counts."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final, Unpack

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from walkbits.config import Config
from walkbits.errors import ConfigError, WalkbitsError
from walkbits.ingest import interactions as ingest
from walkbits.ingest.nodes import select_nodes, usable
from walkbits.ingest.sources import read_source
from walkbits.ingest.times import RULE
from walkbits.runs.stage import StageRun
from walkbits.spark_errors import data_errors
from walkbits.stages.daily import Day, open_day
from walkbits.stages.ingest_graph import SECTIONS, check_features, kept
from walkbits.types import NodeType

EXAMPLES: Final = 5
"""Rows shown per problem."""


@dataclass(frozen=True)
class Problem:
    """One rule that rows of a table break, or that keeps the table from being read.

    Attributes:
        rows: How many rows; 0 where the table cannot be read.
        examples: Up to `EXAMPLES` of them as JSON, the same ones each time.
    """

    section: str
    what: str
    rows: int = 0
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        head = f"{self.section}: {self.rows} x {self.what}" if self.rows else self.what
        return "\n".join([head, *(f"    {example}" for example in self.examples)])


def validate(spark: SparkSession, config: Config, **day: Unpack[Day]) -> StageRun:
    """Print what `report` finds, then open the day's run, which refuses what the config does not allow."""
    ds = day.get("ds") or datetime.now(UTC).date()
    problems, counts = report(spark, config, ds)
    lines = [*map(str, problems), f"{len(problems)} kinds of problems", *counts]
    sys.stdout.write("\n".join(lines) + "\n")
    return open_day(spark, config, **day)


def report(spark: SparkSession, config: Config, ds: date) -> tuple[list[Problem], list[str]]:
    """All problems of all inputs, and the counts of the graph as lines `name: value`."""
    with ExitStack() as stack:
        return _report(spark, config, ds, stack)


def _report(
    spark: SparkSession, config: Config, ds: date, stack: ExitStack
) -> tuple[list[Problem], list[str]]:
    """`report`; every input is read once and kept until `stack` closes."""
    problems: list[Problem] = []
    try:
        check_features(config)
    except ConfigError as error:
        problems.append(Problem("model", str(error)))
    nodes: dict[NodeType, DataFrame] = {}
    for node_type, spec in config.node_tables.items():
        if spec is None:
            continue
        section = SECTIONS[node_type]
        try:
            with data_errors(section):
                rows = kept(stack, select_nodes(read_source(spark, spec, section), spec, section))
                problems += _of_rows(section, rows, _broken_nodes(spec.numeric))
                problems += _repeated(section, rows)
        except WalkbitsError as error:
            problems.append(Problem(section, str(error)))
        else:
            nodes[node_type] = rows
    known = {one: (usable(rows).select("id").distinct(), f"{one} table") for one, rows in nodes.items()}
    counts: list[str] = []
    try:
        with data_errors("interactions"):
            source = read_source(spark, config.interactions, "interactions")
            events = ingest.judged_interactions(source, config.interactions, ds)
            judged = kept(stack, ingest.with_reason(events, known))
            found = _of_rows("interactions", judged.where("in_window"), _broken_events())
            counts = _counts(judged, nodes)
            problems += [*found, *_of_weights(judged, config.ingest.max_edge_weight)]
    except WalkbitsError as error:
        problems.append(Problem("interactions", str(error)))
    if config.impressions is not None:
        try:
            with data_errors("impressions"):
                source = read_source(spark, config.impressions, "impressions")
                shown = ingest.judged_events(source, config.impressions, ds, "impressions")
                judged = ingest.with_reason(shown, known).where("in_window")
                problems += _of_rows("impressions", judged, _broken_events())
        except WalkbitsError as error:
            problems.append(Problem("impressions", str(error)))
    return problems, counts


def _broken_nodes(numeric: tuple[str, ...]) -> list[Column]:
    numbers = [F.col("numbers")[i] for i in range(len(numeric))]
    return [
        F.when(F.col("id").isNull(), "no id"),
        F.col("reason"),
        *[
            F.when(F.isnan(one) | (F.abs(one) == float("inf")), F.lit(f"{column} is no finite number"))
            for column, one in zip(numeric, numbers, strict=True)
        ],
    ]


def _broken_events() -> list[Column]:
    return [
        F.col("reason"),
        F.when(F.col("broken") == "weight", "weight is no finite number >= 0"),
        F.when(F.col("broken") == "timestamp", F.lit(f"timestamp is not {RULE}")),
    ]


def _of_rows(section: str, rows: DataFrame, broken: list[Column]) -> list[Problem]:
    """The problems that `broken` names, each with its rows: a sort of the rows that have some."""
    named = rows.select(F.explode(F.array_compact(F.array(*broken))).alias("what"), "row")
    total = F.count(F.lit(1)).over(Window.partitionBy("what"))
    order = F.row_number().over(Window.partitionBy("what").orderBy(F.xxhash64("row"), "row"))
    shown = named.select("what", "row", total.alias("rows"), order.alias("order"))
    examples: dict[tuple[str, int], list[str]] = {}
    for row in shown.where(F.col("order") <= EXAMPLES).orderBy("what", "order").collect():
        examples.setdefault((row["what"], row["rows"]), []).append(row["row"])
    return [Problem(section, what, count, tuple(some)) for (what, count), some in examples.items()]


def _repeated(section: str, rows: DataFrame) -> list[Problem]:
    counted = rows.where(F.col("id").isNotNull()).groupBy("id").count().where(F.col("count") > 1)
    total = counted.agg(F.sum("count")).collect()[0][0]
    if not total:
        return []
    examples = counted.orderBy(F.desc("count"), "id").limit(EXAMPLES).collect()
    some = tuple(f"{row['id']!r} in {row['count']} rows" for row in examples)
    return [Problem(section, "id is not unique", int(total), some)]


def _good() -> Column:
    """Whether a row of the window is used."""
    return F.col("in_window") & F.col("reason").isNull() & F.col("broken").isNull()


def _of_weights(judged: DataFrame, most: float) -> list[Problem]:
    """Weights too far apart, and pairs whose weights add up to more than an edge may have."""
    positive = judged.where(_good() & (F.col("weight") > 0))
    pairs = positive.groupBy("item_id", "context_id").agg(
        F.sum("weight").alias("sum"), F.min("weight").alias("low"), F.max("weight").alias("high")
    )
    row = pairs.agg(F.min("low"), F.max("high"), F.count_if(F.col("sum") > most)).collect()[0]
    low, high, heavy = row
    problems = []
    if low is not None and low < (unit := ingest.unit_of(low, high)):
        small = positive.where(F.col("weight") < unit)
        examples = small.orderBy("weight", "row").limit(EXAMPLES).collect()
        what = f"weight is below {unit:g}, too small beside the largest, {high:g}"
        problems.append(Problem("interactions", what, small.count(), tuple(one["row"] for one in examples)))
    if heavy:
        top = pairs.orderBy(F.desc("sum"), "item_id", "context_id").limit(min(heavy, EXAMPLES)).collect()
        some = tuple(f"{one['item_id']!r} in {one['context_id']!r}: {one['sum']:g}" for one in top)
        what = f"pair weighs more than ingest.max_edge_weight, {most:g}"
        problems.append(Problem("interactions", what, heavy, some))
    return problems


def _counts(judged: DataFrame, nodes: Mapping[NodeType, DataFrame]) -> list[str]:
    inside, broken = F.col("in_window"), F.col("broken").isNotNull()
    good = _good()
    weight = F.when(good, F.col("weight"))
    row = judged.agg(
        F.count(F.lit(1)).alias("read"),
        F.count_if(~inside).alias("out"),
        F.count_if(inside & broken).alias("broken"),
        F.count_if(inside & ~broken & F.col("reason").isNotNull()).alias("aside"),
        F.count_if(weight == 0).alias("zero"),
        F.count_distinct(F.when(good, F.col("item_id"))).alias("items"),
        F.count_distinct(F.when(good, F.col("context_id"))).alias("contexts"),
        F.min(weight).alias("weight_low"),
        F.max(weight).alias("weight_high"),
        F.min("day").alias("day_low"),
        F.max("day").alias("day_high"),
    ).collect()[0]
    lines = [
        f"interactions read: {row['read']}",
        f"out of the window: {row['out']}",
        f"set aside: {row['aside']}",
        f"broken: {row['broken']}",
        f"of weight 0: {row['zero']}",
        f"distinct items: {row['items']}",
        f"distinct contexts: {row['contexts']}",
    ]
    for node_type, table in nodes.items():
        touched = judged.where(good).select(F.col(f"{node_type}_id").alias("id")).distinct()
        isolated = usable(table).select("id").dropna().distinct().join(touched, "id", "left_anti").count()
        lines.append(f"isolated {SECTIONS[node_type]}: {isolated}")
    if row["weight_low"] is not None:
        lines.append(f"weights: {abs(row['weight_low']):g} to {row['weight_high']:g}")
    if row["day_low"] is not None:
        lines.append(f"days read: {_iso(row['day_low'])} to {_iso(row['day_high'])}")
    return lines


def _iso(day: int) -> str:
    try:
        return (date(1970, 1, 1) + timedelta(days=day)).isoformat()
    except OverflowError:
        return f"{day} days after 1970-01-01"

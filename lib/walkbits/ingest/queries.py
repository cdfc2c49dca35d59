"""Tables of queries: ids of items or contexts, histories of items, or vectors.

    items, contexts   query_id: the external id itself
    histories         query_id, items ARRAY<id>: what a user has seen; empty of one who has seen nothing
    vectors           query_id, embedding ARRAY<FLOAT>, and items if some are to be masked

Queries are gathered on the driver, in order of their ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DoubleType, FloatType, IntegralType, StringType

from walkbits.errors import EmptyInputError, InputError
from walkbits.ingest.sources import as_id, quoted, require_columns, require_id
from walkbits.schemas import CONTEXT, ITEM
from walkbits.spark_errors import data_errors
from walkbits.types import F32, I32, I64

By = Literal["items", "contexts", "histories", "vectors"]
KINDS: Final[tuple[By, ...]] = ("items", "contexts", "histories", "vectors")
_COLUMNS: Final[dict[By, tuple[str, ...]]] = {
    "items": (), "contexts": (), "histories": ("items",), "vectors": ("embedding",)
}  # fmt: skip


@dataclass(frozen=True)
class Queries:
    """Queries in order of their ids.

    Attributes:
        names: query_id of each.
        nodes: int64 [q], node_id of each; only by items and contexts.
        histories: indptr int64 [q + 1] and node_ids int64, ascending within a query.
        vectors: fp32 [q, d]; only by vectors.
    """

    names: list[str]
    nodes: I64 | None
    histories: tuple[I64, I64]
    vectors: F32 | None


def read_queries(frame: DataFrame, by: By, nodes: DataFrame, width: int) -> Queries:
    """Check a table of queries and gather it.

    Args:
        nodes: node_type, node_id, external_id of the run.
        width: of an embedding.

    Raises:
        EmptyInputError: no queries.
        InputError: columns are missing or of other types; ids are null, repeated or not in the run; vectors
            have another width, nulls, NaN or infinity.
    """
    require_columns(frame, ["query_id", *_COLUMNS[by]], "queries")
    require_id(frame, "query_id", "queries")
    seen = "items" if by == "histories" or (by == "vectors" and "items" in frame.columns) else None
    columns = [as_id("query_id").alias("query_id")]
    if seen:
        _require_list(frame, "items", (StringType, IntegralType), "ids")
        columns.append(F.col("items").cast("array<string>").alias("items"))
    if by == "vectors":
        _require_list(frame, "embedding", (FloatType, DoubleType), "numbers")
        columns.append(F.col("embedding").cast("array<float>").alias("embedding"))
    rows = frame.select(*columns)
    names = sorted(_checked_names(rows))
    numbered = frame.sparkSession.createDataFrame(list(enumerate(names)), "query bigint, query_id string")
    found = F.broadcast(numbered)
    number = None
    if by in ("items", "contexts"):
        wanted = nodes.where(F.col("node_type") == (ITEM if by == "items" else CONTEXT))
        asked = found.join(wanted, numbered.query_id == wanted.external_id, "left").select("query", "node_id")
        number = _known(asked.orderBy("query").toArrow(), names, by)
    histories = (np.zeros(len(names) + 1, np.int64), np.empty(0, np.int64))
    if seen:
        histories = _histories(rows.join(found, "query_id"), nodes, len(names))
    vectors = _vectors(rows.join(found, "query_id"), width) if by == "vectors" else None
    return Queries(names, number, histories, vectors)


def _require_list(frame: DataFrame, column: str, kinds: tuple[type[Any], ...], of: str) -> None:
    kind = frame.schema[column].dataType
    if not (isinstance(kind, ArrayType) and isinstance(kind.elementType, kinds)):
        raise InputError(
            f"queries.{column} must be a list of {of}, got {kind.simpleString()}; cast it at its source"
        )


def _checked_names(rows: DataFrame) -> list[str]:
    names: list[str | None] = rows.select("query_id").toArrow()["query_id"].to_pylist()
    if not names:
        raise EmptyInputError("queries must hold rows, got none; nothing was searched")
    distinct = {name for name in names if name is not None}
    if len(distinct) < len(names):
        raise InputError(
            f"queries.query_id must be unique and not null, got {len(names) - len(distinct)} nulls or "
            f"repeats in {len(names)} rows; keep one row per query"
        )
    return list(distinct)


def _known(asked: Any, names: Sequence[str], by: str) -> I64:
    unknown = np.flatnonzero(asked["node_id"].is_null().to_numpy())
    if len(unknown):
        raise InputError(
            f"queries.query_id must name {by} of the run, got {len(unknown)} unknown ids, "
            f"e.g. {[names[one] for one in unknown[:5]]}; leave them out, or ask by histories"
        )
    return np.asarray(asked["node_id"].to_numpy())


def _histories(rows: DataFrame, nodes: DataFrame, count: int) -> tuple[I64, I64]:
    nulls = rows.where(F.col("items").isNull() | F.exists("items", lambda item: item.isNull())).count()
    if nulls:
        raise InputError(f"queries.items must hold no nulls, got some in {nulls} rows; an empty list is one")
    items = nodes.where(F.col("node_type") == ITEM).select("node_id", "external_id")
    seen = rows.select("query", F.explode(F.array_distinct("items")).alias("external_id"))
    known = seen.join(items, "external_id", "left").orderBy("query", "node_id").toArrow()
    unknown = known.filter(known["node_id"].is_null())["external_id"].unique().to_pylist()
    if unknown:
        raise InputError(
            f"queries.items must name items of the run, got {len(unknown)} unknown ids, "
            f"e.g. {sorted(unknown)[:5]}; leave them out"
        )
    indptr = np.searchsorted(known["query"].to_numpy(), np.arange(count + 1))
    return indptr.astype(np.int64), known["node_id"].to_numpy().astype(np.int64)


def _vectors(rows: DataFrame, width: int) -> F32:
    column = rows.orderBy("query").select("embedding").toArrow()["embedding"].combine_chunks()
    sizes = column.value_lengths().to_numpy(zero_copy_only=False)
    wrong = sizes[~(sizes == width)]
    if len(wrong):
        raise InputError(
            f"queries.embedding must hold {width} numbers, as the run's embeddings, got {len(wrong)} rows of "
            f"other widths, e.g. {wrong[0]:.0f}; ask with vectors of the published model"
        )
    values = column.flatten()
    flat = values.to_numpy(zero_copy_only=False).astype(np.float32)
    bad = ~np.isfinite(flat.reshape(-1, width)).all(axis=1)
    if bad.any():
        raise InputError(
            f"queries.embedding must be finite, got {bad.sum()} rows with nulls, NaN or infinity; leave them "
            "out"
        )
    return np.asarray(flat.reshape(-1, width), np.float32)


@dataclass(frozen=True)
class Choice:
    """Which items lists may hold, by columns of a table of items.

    Attributes:
        items: a row per item, with its id in column `item`.
        where: SQL predicate over its columns; None takes every item that the table names.
        spread_by: column of which a list holds each value `at_most` times; nulls are not bounded.
    """

    items: DataFrame
    item: str
    where: str | None = None
    spread_by: str | None = None
    at_most: int = 1


def chosen_items(choice: Choice, nodes: DataFrame) -> tuple[I64, I32 | None]:
    """The chosen items of a run, and the group of each; items that the run does not know are passed over.

    Args:
        nodes: node_type, node_id, external_id of the run.

    Returns:
        node_ids int64 [m], ascending; groups int32 [m], -1 of a null, None without `spread_by`.

    Raises:
        EmptyInputError: none is left.
        InputError: columns are missing, the predicate is none, or an item is there twice.
    """
    spread = [choice.spread_by] if choice.spread_by else []
    require_columns(choice.items, [choice.item, *spread], "items")
    require_id(choice.items, choice.item, "items")
    with data_errors("--where"):
        kept = choice.items.where(choice.where) if choice.where else choice.items
        group = F.col(quoted(choice.spread_by)) if choice.spread_by else F.lit(None)
        kept = kept.select(as_id(choice.item).alias("external_id"), group.cast("string").alias("group"))
        items = nodes.where(F.col("node_type") == ITEM).select("node_id", "external_id")
        found = (
            items.join(kept, "external_id", "inner").select("node_id", "group").orderBy("node_id").toArrow()
        )
    node = found["node_id"].to_numpy().astype(np.int64)
    if not len(node):
        raise EmptyInputError(f"items must leave some of the run's, got none where {choice.where or 'named'}")
    if (np.diff(node) == 0).any():
        raise InputError("items: ids must be unique, got repeated ones; keep one row per item")
    if not choice.spread_by:
        return node, None
    codes = found["group"].combine_chunks().dictionary_encode().indices.fill_null(-1)
    return node, codes.to_numpy().astype(np.int32)

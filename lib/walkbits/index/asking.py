"""Top lists of any queries among any items: filtered before the cut, seen items masked, spread if asked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession

from walkbits import settings
from walkbits.arrays.mapped import open_array, save_array
from walkbits.arrays.places import Place
from walkbits.arrays.vectors import float_lists
from walkbits.index.codes import vectors
from walkbits.index.matrices import Form, as_they_are, write_matrix
from walkbits.index.nearest import Batch, nearest
from walkbits.index.plan import Plan
from walkbits.index.related import Seen
from walkbits.tables.external_ids import ExternalIds
from walkbits.tables.rows import Batches, Rows
from walkbits.types import F32, I32, I64


@dataclass(frozen=True)
class Allowed:
    """Items that lists may hold.

    Attributes:
        nodes: int64 [m], ascending, at least one.
        groups: int32 [m], group of each, -1 for none; None where lists need not be spread.
        at_most: Items of a group in a list.
    """

    nodes: I64
    groups: I32 | None = None
    at_most: int = 1


def nearest_items(
    spark: SparkSession,
    items: Rows,
    scored: Form,
    width: int,
    allowed: Allowed,
    queries: F32,
    masked: tuple[I64, I64],
    k: int,
    names: tuple[list[str], ExternalIds],
    index: settings.Index,
    seed: int,
    folder: Place,
) -> tuple[Rows, Plan]:
    """The k allowed items of largest inner product with each query, none of them masked.

    A list is shorter only where fewer items are allowed, or groups are exhausted.

    Args:
        items: node_id, embedding and prior of all items.
        scored: makes what queries are compared with: fp32 [n, width].
        queries: fp32 [q, width], finite.
        masked: indptr int64 [q + 1] and node_ids, ascending within a query, that its list must not hold.
        k: at least 1.
        names: ids of the queries, and of all nodes.
        folder: scratch folder that driver and executors reach, until the rows are written.

    Returns:
        Rows of (query_id, rank, item_id, score), rank from 1, ties by node_id; and how they were searched.
    """
    place = folder / "allowed.npy"
    save_array(place, allowed.nodes)
    select = _Select(place, scored)
    matrix, asked, groups = folder / "items.npy", folder / "queries.npy", None
    longest = write_matrix(
        items.then(select.run, select.schema), len(allowed.nodes), width, matrix, as_they_are
    )
    save_array(asked, queries)
    if allowed.groups is not None:
        groups = folder / "groups.npy"
        save_array(groups, allowed.groups)
    seen = Seen(folder / "masked_indptr.npy", folder / "masked.npy")
    indptr, positions = positions_of(masked, allowed.nodes)
    save_array(seen.indptr, indptr)
    save_array(seen.indices, positions.astype(np.int32))
    batch = Batch(
        asked, matrix, len(queries), len(allowed.nodes), longest, min(k, len(allowed.nodes)), seen,
        groups, allowed.at_most,
    )  # fmt: skip
    found, plan = nearest(spark, batch, index, seed, folder)
    name = _Name(*names, place)
    return found.then(name.run, "query_id STRING, rank INT, item_id STRING, score FLOAT"), plan


def positions_of(masked: tuple[I64, I64], allowed: I64) -> tuple[I64, I64]:
    """Masked nodes as positions among the allowed ones, the others dropped: indptr and positions."""
    indptr, nodes = masked
    at = np.minimum(np.searchsorted(allowed, nodes), len(allowed) - 1)
    there = allowed[at] == nodes
    return np.concatenate([[0], np.cumsum(there)])[indptr].astype(np.int64), at[there].astype(np.int64)


@dataclass(frozen=True)
class _Select:
    allowed: Place
    form: Form

    schema = "node_id BIGINT, embedding ARRAY<FLOAT>"

    def run(self, batches: Batches) -> Batches:
        """(node_id, embedding, prior) -> (position, vector) of the allowed ones."""
        allowed = open_array(self.allowed)
        for batch in batches:
            nodes = batch.column("node_id").to_numpy()
            at = np.minimum(np.searchsorted(allowed, nodes), len(allowed) - 1)
            there = allowed[at] == nodes
            if there.any():
                kept = batch.filter(pa.array(there))
                rows = self.form(kept, vectors(kept.column("embedding")))
                columns = [pa.array(at[there]), float_lists(rows)]
                yield pa.RecordBatch.from_arrays(columns, names=["node_id", "embedding"])


@dataclass(frozen=True)
class _Name:
    queries: list[str]
    nodes: ExternalIds
    allowed: Place

    def run(self, batches: Batches) -> Batches:
        """(query, item, rank, score) -> with external ids."""
        allowed, queries = open_array(self.allowed), pa.array(self.queries, pa.string())
        for batch in batches:
            if batch.num_rows:
                columns = [
                    queries.take(batch.column("query")), batch.column("rank"),
                    self.nodes.of(allowed[batch.column("item").to_numpy()]), batch.column("score"),
                ]  # fmt: skip
                yield pa.RecordBatch.from_arrays(columns, names=["query_id", "rank", "item_id", "score"])

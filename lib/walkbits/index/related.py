"""Top lists for all nodes: `related` (item to items) and `recommendations` (context to items)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession

from walkbits import settings
from walkbits.arrays.mapped import open_array
from walkbits.arrays.places import Place
from walkbits.index.matrices import (
    Form,
    Supported,
    as_they_are,
    unit,
    with_one,
    with_prior,
    write_matrix,
)
from walkbits.index.nearest import Batch, Itself, nearest
from walkbits.index.plan import Plan
from walkbits.network.declaration import Network
from walkbits.schemas import CONTEXT, ITEM
from walkbits.tables.external_ids import ExternalIds
from walkbits.tables.rows import Batches, Rows
from walkbits.types import I64


def related_forms(network: Network, graph: Place) -> tuple[Form, Form | None]:
    """How an item asks for others, and how it is scored where that differs (`network.declaration.Score`).

    Args:
        graph: folder of the run's graph, where the items' contexts are counted.
    """
    asks = as_they_are if network.outputs[ITEM].normalise else unit
    support = network.score.support
    return asks, Supported(asks, graph / "item_indptr.npy", support) if support else None


def recommends(network: Network, num_contexts: int, index: settings.Index) -> bool:
    """Whether a run has recommendations."""
    return CONTEXT in network.outputs and num_contexts > 0 and index.num_recommended > 0


def related_items(
    spark: SparkSession,
    items: Rows,
    num_items: int,
    size: int,
    names: ExternalIds,
    index: settings.Index,
    seed: int,
    folder: Place,
    *,
    queried: Form = as_they_are,
    scored: Form | None = None,
) -> tuple[Rows, Plan]:
    """The `num_related` items of largest inner product with each item, itself excluded.

    A catalogue of n <= num_related items gives n - 1 rows each.

    Args:
        items: node_id (0 to n - 1) and embedding of all items.
        size: of an embedding.
        names: of the nodes.
        folder: scratch folder on storage that the driver and all executors reach; it must live
            until the result has been written. Holds num_items * size * 4 bytes, and as much again with
            `scored`; for cells a copy by cell, and of each query its list and 512 to 2,560 bytes of cells.
        queried: makes an item's query of its embedding, of unit length.
        scored: makes what queries are compared with; the queries themselves when left out.

    Returns:
        Rows of (item_id, rank, related_id, score), and how they were searched.

    Raises:
        EmptyInputError: no items.
        InputError: node_ids are not 0 to n - 1, or sizes differ.
    """
    matrix = queries = folder / "items.npy"
    if scored is not None:
        queries = folder / "queries.npy"
        write_matrix(items, num_items, size, queries, queried)
    longest = write_matrix(items, num_items, size, matrix, scored or queried)
    k = max(1, min(index.num_related, num_items - 1))
    batch = Batch(queries, matrix, num_items, num_items, longest, k, Itself())
    found, plan = nearest(spark, batch, index, seed, folder)
    schema = "item_id STRING, rank INT, related_id STRING, score FLOAT"
    return found.then(_Name(names, 0, ("item_id", "related_id")).run, schema), plan


def recommended_items(
    spark: SparkSession,
    items: Rows,
    contexts: Rows,
    num_items: int,
    num_contexts: int,
    size: int,
    seen: Seen,
    names: ExternalIds,
    index: settings.Index,
    seed: int,
    folder: Place,
) -> tuple[Rows, Plan]:
    """The `num_recommended` items of largest inner product + prior with each context, seen ones left out.

    Args:
        items: node_id (0 to num_items - 1), embedding and prior.
        contexts: node_id (from num_items) and embedding.
        seen: the items that each context touched.

    Returns:
        Rows of (context_id, rank, item_id, score), and how they were searched.

    Raises:
        As `related_items`.
    """
    matrix, queries = folder / "items.npy", folder / "contexts.npy"
    longest = write_matrix(items, num_items, size + 1, matrix, with_prior)
    write_matrix(contexts, num_contexts, size + 1, queries, with_one, first=num_items)
    k = min(index.num_recommended, num_items)
    batch = Batch(queries, matrix, num_contexts, num_items, longest, k, seen)
    found, plan = nearest(spark, batch, index, seed, folder)
    schema = "context_id STRING, rank INT, item_id STRING, score FLOAT"
    return found.then(_Name(names, num_items, ("context_id", "item_id")).run, schema), plan


@dataclass(frozen=True)
class Seen:
    """The items of each context, as the graph's arrays hold them.

    Attributes:
        indptr: int [contexts + 1], mapped.
        indices: int32 [edges], ascending within a context, mapped.
    """

    indptr: Place
    indices: Place

    def of(self, queries: I64) -> tuple[I64, I64]:
        indptr, indices = open_array(self.indptr), open_array(self.indices)
        starts, counts = indptr[queries].astype(np.int64), np.diff(indptr)[queries].astype(np.int64)
        own = np.concatenate([[0], np.cumsum(counts)])
        where = np.arange(own[-1]) + np.repeat(starts - own[:-1], counts)
        return own, indices[where].astype(np.int64)


def seen_in(graph: Place) -> Seen:
    """The items of the contexts of a run's graph."""
    return Seen(graph / "context_indptr.npy", graph / "context_indices.npy")


@dataclass(frozen=True)
class _Name:
    names: ExternalIds
    first_query: int
    columns: tuple[str, str]

    def run(self, batches: Batches) -> Batches:
        """(query, item, rank, score) -> with external ids."""
        for batch in batches:
            if batch.num_rows:
                query, item = (batch.column(name).to_numpy() for name in ("query", "item"))
                # A list repeats its query: its name is looked up once.
                firsts = np.flatnonzero(np.diff(query, prepend=-1))
                times = np.diff(firsts, append=len(query))
                own = self.names.of(query[firsts] + self.first_query)
                yield pa.RecordBatch.from_pydict(
                    {
                        self.columns[0]: own.take(pa.array(np.repeat(np.arange(len(firsts)), times))),
                        "rank": batch.column("rank"),
                        self.columns[1]: self.names.of(item),
                        "score": batch.column("score"),
                    }
                )

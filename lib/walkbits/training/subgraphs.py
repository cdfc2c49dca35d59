"""What training reads: positive pairs from contexts, and re-indexed minibatch subgraphs.

Pairs are drawn by Spark, subgraphs by one process from mapped arrays. Every draw is
keyed by what it is for, so pairs and batches do not depend on partitions or order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import ArrayLike, NDArray
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from walkbits import rng, settings
from walkbits.network.arithmetic import pool_weights
from walkbits.network.declaration import Pool
from walkbits.tables.rows import Batches
from walkbits.types import F32, I32, I64, U64

_CONTEXTS_TAG: Final = int.from_bytes(b"contexts", "big") >> 1
_PAIRS_TAG: Final = int.from_bytes(b"pairs", "big")
_CONTEXTS_AT_ONCE: Final = 1 << 20
"""Draws in one array: 1 M x 8 bytes, times a handful of temporaries."""


def training_pairs(edges: DataFrame, training: settings.Training, seed: int) -> DataFrame:
    """Pairs of different items that share a context, from a sample of contexts.

    A context takes part if its draw is below `context_fraction`. Each then gives up to
    `pairs_per_context` pairs, distinct as unordered pairs, drawn uniformly by the items'
    ranks within the context; no context's items are ever held in one row.

    Args:
        edges: (item INT, context INT), one row per edge.
        training: `context_fraction` and `pairs_per_context`.
        seed: Seed of the run.

    Returns:
        (query INT, positive INT), ordered by context and draw.
    """
    edges = edges.select("context", "item")
    sizes = edges.groupBy("context").agg(F.count("item").alias("size"))

    def draw(batches: Batches) -> Batches:
        rows = max(1, _CONTEXTS_AT_ONCE // training.pairs_per_context)
        for batch in batches:
            for start in range(0, batch.num_rows, rows):
                part = batch.slice(start, rows)
                context, size = (part.column(i).to_numpy() for i in range(2))
                yield _pairs_of(context, size, training, seed)

    drawn = sizes.mapInArrow(draw, "context int, pair int, query_rank bigint, positive_rank bigint")
    sampled = drawn.select("context").distinct()
    rank = F.row_number().over(Window.partitionBy("context").orderBy("item")).cast("bigint") - 1
    ranked = edges.join(sampled, on="context", how="left_semi").select("context", "item", rank.alias("rank"))
    query = ranked.select("context", F.col("rank").alias("query_rank"), F.col("item").alias("query"))
    positive = ranked.select("context", F.col("rank").alias("positive_rank"), F.col("item").alias("positive"))
    return (
        drawn.join(query, on=["context", "query_rank"], how="inner")
        .join(positive, on=["context", "positive_rank"], how="inner")
        .orderBy("context", "pair")
        .select("query", "positive")
    )


def _pairs_of(context: I32, size: I64, training: settings.Training, seed: int) -> pa.RecordBatch:
    """Rank pairs of the sampled contexts among some, as (context, pair, query_rank, positive_rank)."""
    kept = (size >= 2) & (rng.uniform(rng.draw(seed ^ _CONTEXTS_TAG, context)) < training.context_fraction)
    context, size = context[kept, None], size[kept, None]  # [contexts, 1]
    pair = np.arange(training.pairs_per_context)
    query = below(rng.draw(seed ^ _PAIRS_TAG, context, pair, 0), size)  # [contexts, pairs]
    step = below(rng.draw(seed ^ _PAIRS_TAG, context, pair, 1), size - 1)
    positive = (query + 1 + step) % size  # [contexts, pairs], never the query
    unordered = np.minimum(query, positive) * size + np.maximum(query, positive)
    first = _first_seen(unordered)
    row, column = np.nonzero(first)
    return pa.RecordBatch.from_arrays(
        [
            pa.array(context[row, 0], pa.int32()),
            pa.array(column, pa.int32()),
            pa.array(query[row, column]),
            pa.array(positive[row, column]),
        ],
        names=["context", "pair", "query_rank", "positive_rank"],
    )


def below(draws: U64, bound: ArrayLike) -> I64:
    """Draws scaled to [0, bound), bound < 2^32: their upper 32 bits times the bound."""
    return (((draws >> np.uint64(32)) * np.asarray(bound, np.uint64)) >> np.uint64(32)).astype(np.int64)


def _first_seen(values: I64) -> NDArray[np.bool_]:
    """Whether a value appears for the first time in its row. bool [rows, columns]."""
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    fresh = np.ones(values.shape, bool)
    fresh[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.empty_like(fresh)
    np.put_along_axis(first, order, fresh, axis=1)
    return first


@dataclass(frozen=True)
class Neighborhoods:
    """Neighborhoods of all items as one CSR: row u is `neighbors[indptr[u]:indptr[u + 1]]`.

    Attributes:
        indptr: int64 [num_items + 1].
        neighbors: int32 [indptr[-1]], visits descending then index ascending in each row.
        visits: int32 [indptr[-1]].
    """

    indptr: I64
    neighbors: I32
    visits: I32

    def heaviest(self, count: int) -> Neighborhoods:
        """The first `count` neighbors of each row: the most visited ones."""
        sizes = np.minimum(np.diff(self.indptr), count)  # [num_items]
        indptr = np.concatenate([[0], np.cumsum(sizes)])
        within = np.arange(indptr[-1]) - np.repeat(indptr[:-1], sizes)
        kept = np.repeat(self.indptr[:-1], sizes) + within
        return Neighborhoods(indptr, self.neighbors[kept], self.visits[kept])


@dataclass(frozen=True)
class HopArrays:
    """One layer's neighborhoods of a minibatch; fields as in `pinsage.Hop`."""

    indptr: I64
    neighbors: I64
    weights: F32


@dataclass(frozen=True)
class Subgraph:
    """What a minibatch needs to embed its targets.

    Attributes:
        sources: int32 [num_sources], items whose features the first hop reads.
        hops: In the order in which they are applied; the targets of a hop are the first
            sources of it, and the sources of the last hop the targets of none.
        targets: Number of targets of the last hop; `sources[:targets]` are they.
    """

    sources: I32
    hops: tuple[HopArrays, ...]
    targets: int


class SubgraphBuilder:
    """Builds minibatch subgraphs: the unique nodes of a batch are computed once per hop."""

    def __init__(self, neighborhoods: Neighborhoods, num_layers: int, pool: Pool) -> None:
        self._graph = neighborhoods
        self._weights = pool_weights(neighborhoods.indptr, neighborhoods.visits, pool)
        self._num_layers = num_layers
        self._position = np.full(len(neighborhoods.indptr) - 1, -1, np.int32)

    def build(self, nodes: I32) -> tuple[Subgraph, I64]:
        """The subgraph below some items, which may repeat.

        Args:
            nodes: int32 [n].

        Returns:
            The subgraph and, int64 [n], each item's row among its targets.
        """
        position = self._position
        sources = np.empty(len(position), np.int32)
        rows = np.empty(len(nodes), np.int64)
        size = targets = int(_enter(nodes, position, sources, rows))
        hops = []
        for _ in range(self._num_layers):
            edges = int((self._graph.indptr[sources[:size] + 1] - self._graph.indptr[sources[:size]]).sum())
            indptr = np.empty(size + 1, np.int64)
            neighbors, weights = np.empty(edges, np.int64), np.empty(edges, np.float32)
            size = int(
                _expand(
                    self._graph.indptr, self._graph.neighbors, self._weights,
                    position, sources, size, indptr, neighbors, weights,
                )
            )  # fmt: skip
            hops.append(HopArrays(indptr, neighbors, weights))
        position[sources[:size]] = -1
        return Subgraph(sources[:size].copy(), tuple(reversed(hops)), targets), rows


@njit(nogil=True, cache=True)
def _enter(nodes: Any, position: Any, sources: Any, rows: Any) -> Any:
    """Number nodes in order of first appearance."""
    size = 0
    for i in range(len(nodes)):
        node = nodes[i]
        if position[node] < 0:
            position[node] = size
            sources[size] = node
            size += 1
        rows[i] = position[node]
    return size


@njit(nogil=True, cache=True)
def _expand(
    all_indptr: Any, all_neighbors: Any, all_weights: Any,
    position: Any, sources: Any, targets: Any, indptr: Any, neighbors: Any, weights: Any,
) -> Any:  # fmt: skip
    """One hop: the rows of `sources[:targets]`, their neighbors numbered after them."""
    size = targets
    e = 0
    indptr[0] = 0
    for u in range(targets):
        for full in range(all_indptr[sources[u]], all_indptr[sources[u] + 1]):
            node = all_neighbors[full]
            if position[node] < 0:
                position[node] = size
                sources[size] = node
                size += 1
            neighbors[e] = position[node]
            weights[e] = all_weights[full]
            e += 1
        indptr[u + 1] = e
    return size


@njit(nogil=True, cache=True)
def gather_rows(matrix: Any, rows: Any, out: Any) -> None:
    """`out[i] = matrix[rows[i]]`, without holding the interpreter: a mapped file may have to be read."""
    for i in range(len(rows)):
        for k in range(matrix.shape[1]):
            out[i, k] = matrix[rows[i], k]

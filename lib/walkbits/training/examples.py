"""What training learns from: pairs of items that share a context, and edges.

Pairs are drawn by Spark. Every draw is keyed by what it is for, so examples do not depend on
partitions or order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from walkbits import rng, settings
from walkbits.graph.csr import BipartiteCsr
from walkbits.tables.rows import Batches
from walkbits.types import I32, I64, U64, Bools

_CONTEXTS_TAG: Final = int.from_bytes(b"contexts", "big") >> 1
_PAIRS_TAG: Final = int.from_bytes(b"pairs", "big")
_VALIDATION_TAG: Final = int.from_bytes(b"validate", "big") >> 1
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


def pairs_in(csr: BipartiteCsr, training: settings.Training, seed: int) -> I32:
    """The pairs of `training_pairs`, from a graph in memory: int32 [pairs, 2] of query and positive."""
    contexts = np.arange(csr.context.num_nodes, dtype=np.int32)
    sizes = np.diff(csr.context.indptr).astype(np.int64)
    drawn = _pairs_of(contexts, sizes, training, seed)
    first = csr.context.indptr[drawn["context"].to_numpy()].astype(np.int64)
    ranks = (drawn[name].to_numpy() for name in ("query_rank", "positive_rank"))
    return np.column_stack([csr.context.indices[first + rank] for rank in ranks])


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
class Examples:
    """Queries and their positives, in a fixed order.

    Attributes:
        query: int32 [examples], items of pairs or contexts of edges.
        positive: int32 [examples], items.
    """

    query: I32
    positive: I32

    @classmethod
    def of_pairs(cls, pairs: I32) -> Examples:
        """From int32 [num_pairs, 2], (query, positive)."""
        return cls(pairs[:, 0], pairs[:, 1])

    @classmethod
    def of_edges(cls, csr: BipartiteCsr, fraction: float, seed: int) -> Examples:
        """Every edge of the contexts whose keyed draw is below `fraction`, by context, then item."""
        degrees = np.diff(csr.context.indptr)
        kept = rng.uniform(rng.draw(seed ^ _CONTEXTS_TAG, csr.context.keys)) < fraction  # [contexts]
        contexts = np.flatnonzero(kept).astype(np.int32)
        query = np.repeat(contexts, degrees[contexts])
        if len(contexts) == len(degrees):
            return cls(query, csr.context.indices)
        return cls(query, csr.context.indices[np.repeat(kept, degrees)])

    def split(self, fraction: float, seed: int, alike: bool) -> tuple[Examples, Examples]:
        """Those to train on, and a keyed `fraction` to validate with; equal examples stay together.

        Where one of both would be empty, all are trained on.

        Args:
            alike: Whether query and positive are of one type, so that their order does not count.
        """
        low, high = self.query, self.positive
        if alike:
            low, high = np.minimum(low, high), np.maximum(low, high)
        held = rng.uniform(rng.draw(seed ^ _VALIDATION_TAG, low, high)) < fraction  # [examples]
        if held.all() or not held.any():
            return self, Examples(self.query[:0], self.positive[:0])
        return self._of(~held), self._of(held)

    def _of(self, some: Bools) -> Examples:
        return Examples(self.query[some], self.positive[some])

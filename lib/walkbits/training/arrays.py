"""What the trainer reads: features, heaviest neighbors, pairs and hard negatives as mapped arrays.

Executors write the files, the trainer maps them and touches only the pages its minibatches
need. Nothing is collected.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from walkbits import settings
from walkbits.arrays.mapped import ArrayWriter, create_matrix, open_array, open_matrix, save_array
from walkbits.arrays.places import Place, exists
from walkbits.errors import EmptyInputError
from walkbits.graph.csr import BipartiteCsr
from walkbits.tables.rows import Batches
from walkbits.tables.vectors import read_lists, read_vectors
from walkbits.training.negatives import HardNegatives, Partners, hard_negatives_of
from walkbits.training.subgraphs import Neighborhoods

_FEATURES, _NEIGHBORS, _VISITS, _PAIRS = (f"{n}.npy" for n in ("features", "neighbors", "visits", "pairs"))
_QUERIES, _JOINED, _HARD = (f"{n}.npy" for n in ("queries", "joined", "hard"))


@dataclass(frozen=True)
class TrainingArrays:
    """Inputs of `training.train`.

    Attributes:
        features: fp32 [num_items, feature_width], mapped.
        neighborhoods: The heaviest neighbors of each item.
        pairs: int32 [num_pairs, 2], (query, positive).
        hard_negatives: Of the queries, where `write_hard_negatives` ran.
    """

    features: NDArray[np.float32]
    neighborhoods: Neighborhoods
    pairs: NDArray[np.int32]
    hard_negatives: HardNegatives | None


def write_training_arrays(
    *,
    features: DataFrame,
    neighborhoods: DataFrame,
    pairs: DataFrame,
    num_items: int,
    feature_width: int,
    num_neighbors: int,
    folder: Place,
) -> None:
    """Write the arrays on the executors.

    Args:
        features: (node_id, features BINARY) of all items.
        neighborhoods: (node, neighbors, visits) of relation item_from_item.
        pairs: (query, positive) in the order of `sampling.training_pairs`.
        num_neighbors: Neighbors kept per item.
        folder: On storage that the driver and all hosts reach.

    Raises:
        EmptyInputError: no context in the sample holds two items.
    """
    create_matrix(folder / _FEATURES, num_items, feature_width)
    _run(features.select("node_id", "features"), _write_features(folder, feature_width))
    for name in (_NEIGHBORS, _VISITS):
        create_matrix(folder / name, num_items, num_neighbors, "<i4")
    heaviest = [F.substring(c, 1, 4 * num_neighbors).alias(c) for c in ("neighbors", "visits")]
    _run(neighborhoods.select("node", *heaviest), _write_lists(folder, num_neighbors))
    # The sample's pairs are a bounded stream: contexts sampled x pairs_per_context.
    ordered = pairs.toArrow()
    if not ordered.num_rows:
        raise EmptyInputError(
            "training: at least one sampled context must hold two items, got none; "
            "raise training.context_fraction"
        )
    columns = [ordered[name].to_numpy() for name in ("query", "positive")]
    save_array(folder / _PAIRS, np.column_stack(columns).astype(np.int32))


def write_hard_negatives(
    spark: SparkSession,
    graph: Place,
    walks: settings.Walks,
    hard: settings.HardNegatives,
    seed: int,
    folder: Place,
    queries_per_block: int = 256,
) -> None:
    """Rank items for the queries of the pairs that `write_training_arrays` wrote, on the executors.

    Args:
        spark: The session.
        graph: The graph folder (see graph.csr), on storage that every host reaches.
        walks: Length and restarts of the walks.
        hard: Number of walks, window and sample size.
        seed: Seed of the run.
        folder: That of the training arrays.
        queries_per_block: Queries that a task ranks at once; the rows do not depend on it.
    """
    pairs = open_array(folder / _PAIRS)
    queries = np.unique(pairs[:, 0])
    save_array(folder / _QUERIES, queries)
    save_array(folder / _JOINED, Partners.of(pairs).joined)
    create_matrix(folder / _HARD, len(queries), hard.per_query, "<i4")
    num_blocks = -(-len(queries) // queries_per_block)
    # four tasks per core, because blocks differ in cost
    blocks = spark.range(0, num_blocks, 1, min(4 * spark.sparkContext.defaultParallelism, num_blocks))
    _run(blocks, _write_hard_negatives(graph, walks, hard, seed, folder, queries_per_block))


def read_training_arrays(folder: Place) -> TrainingArrays:
    """Map what `write_training_arrays` and, where it ran, `write_hard_negatives` wrote."""
    neighbors, visits = (open_array(folder / name) for name in (_NEIGHBORS, _VISITS))
    present = visits > 0  # [num_items, num_neighbors]; padding has no visits
    indptr = np.concatenate([[0], np.cumsum(present.sum(axis=1))])
    return TrainingArrays(
        features=open_matrix(folder / _FEATURES),
        neighborhoods=Neighborhoods(indptr, neighbors[present], visits[present]),
        pairs=open_array(folder / _PAIRS),
        hard_negatives=HardNegatives(open_array(folder / _QUERIES), open_array(folder / _HARD))
        if exists(folder / _HARD)
        else None,
    )


def _run(frame: DataFrame, write: Callable[[Batches], Batches]) -> None:
    """Evaluate a writing map; it yields no rows."""
    frame.mapInArrow(write, "done int").count()


def _write_features(folder: Place, width: int) -> Callable[[Batches], Batches]:
    def write(batches: Batches) -> Batches:
        with ArrayWriter(folder / _FEATURES) as writer:
            for batch in batches:
                nodes = batch.column("node_id").to_numpy().astype(np.int32)
                writer.write(nodes, read_vectors(batch.column("features"), width))
        yield from ()

    return write


def _write_lists(folder: Place, width: int) -> Callable[[Batches], Batches]:
    def write(batches: Batches) -> Batches:
        with ArrayWriter(folder / _NEIGHBORS) as neighbors, ArrayWriter(folder / _VISITS) as visits:
            for batch in batches:
                nodes = batch.column("node").to_numpy().astype(np.int32)
                for writer, name in ((neighbors, "neighbors"), (visits, "visits")):
                    writer.write(nodes, _padded(*read_lists(batch.column(name)), width))
        yield from ()

    return write


def _write_hard_negatives(
    graph: Place,
    walks: settings.Walks,
    hard: settings.HardNegatives,
    seed: int,
    folder: Place,
    queries_per_block: int,
) -> Callable[[Batches], Batches]:
    def write(batches: Batches) -> Batches:
        csr = BipartiteCsr.open(graph)
        queries = open_array(folder / _QUERIES)
        partners = Partners(open_array(folder / _JOINED))
        with ArrayWriter(folder / _HARD) as writer:
            for batch in batches:
                for block in batch.column("id").to_pylist():
                    low = block * queries_per_block
                    some = np.asarray(queries[low : low + queries_per_block])
                    rows = hard_negatives_of(csr, some, partners, walks, hard, seed)
                    writer.write(np.arange(low, low + len(some)), rows)
        yield from ()

    return write


def _padded(indptr: NDArray[np.int64], values: NDArray[np.int32], width: int) -> NDArray[np.int32]:
    """Lists as rows of one width, zeros after the end: int32 [rows, width]."""
    rows = np.zeros((len(indptr) - 1, width), np.int32)
    rows[np.arange(width) < np.diff(indptr)[:, None]] = values
    return rows

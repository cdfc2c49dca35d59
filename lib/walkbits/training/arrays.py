"""What the trainer reads: features, heaviest neighbors, pairs and hard negatives as mapped arrays.

Executors write the files, the trainer maps them and touches only the pages its minibatches
need. Nothing is collected. Executors need no torch for it, and do not import it: that takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from walkbits import settings
from walkbits.arrays.mapped import ArrayWriter, create_matrix, open_array, open_matrix, save_array
from walkbits.arrays.places import Place, exists
from walkbits.arrays.vectors import read_lists, read_vectors
from walkbits.graph.csr import BipartiteCsr
from walkbits.models.base import Sgd
from walkbits.network.declaration import Network
from walkbits.network.subgraphs import Neighborhoods
from walkbits.tables.rows import Batches
from walkbits.training.examples import Examples
from walkbits.training.negatives import HardNegatives, Partners, hard_negatives_of
from walkbits.types import F32, I64, NodeType, Relation

_PAIRS, _QUERIES, _JOINED, _HARD = (f"{n}.npy" for n in ("pairs", "queries", "joined", "hard"))


@dataclass(frozen=True)
class TrainingData:
    """What a model is trained on.

    Attributes:
        num_nodes: Nodes per type.
        features: fp32 [nodes, width] per type whose input reads them; mapped files will do.
        keys: int64 [nodes] per type, `node_key` of each.
        relations: Neighborhoods by `Update.reads`.
        examples: Queries and positives.
        hard_negatives: Of all queries of pairs; needed where `training.hard_negatives` is set.
    """

    num_nodes: Mapping[NodeType, int]
    features: Mapping[NodeType, F32]
    keys: Mapping[NodeType, I64]
    relations: Mapping[str, Neighborhoods]
    examples: Examples
    hard_negatives: HardNegatives | None = None


def _features_file(node_type: NodeType) -> str:
    return f"features.{node_type}.npy"


def _list_files(relation: Relation) -> tuple[str, str]:
    return f"{relation}.neighbors.npy", f"{relation}.visits.npy"


def write_features(
    features: DataFrame, node_type: NodeType, num_nodes: int, width: int, folder: Place
) -> None:
    """Write a node type's feature matrix on the executors.

    Args:
        features: (node INT or BIGINT, features BINARY) of all nodes of the type, by index.
        folder: On storage that the driver and all hosts can access.
    """
    file = folder / _features_file(node_type)
    create_matrix(file, num_nodes, width)
    _run(features, _write_features(file, width))


def write_neighborhoods(
    neighborhoods: DataFrame, relation: Relation, num_targets: int, num_neighbors: int, folder: Place
) -> None:
    """Write the heaviest neighbors of a relation's targets on the executors.

    Args:
        neighborhoods: (node, neighbors, visits) of the relation.
        num_neighbors: Neighbors kept per target.
    """
    for name in _list_files(relation):
        create_matrix(folder / name, num_targets, num_neighbors, "<i4")
    heaviest = [F.substring(c, 1, 4 * num_neighbors).alias(c) for c in ("neighbors", "visits")]
    files = tuple(folder / name for name in _list_files(relation))
    _run(neighborhoods.select("node", *heaviest), _write_lists(files, num_neighbors))


def write_pairs(pairs: DataFrame, folder: Place) -> None:
    """Write pairs (query, positive) in the order of `examples.training_pairs`; there may be none."""
    # The sample's pairs are a bounded stream: contexts sampled x pairs_per_context.
    ordered = pairs.toArrow()
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
    """Rank items for the queries of the pairs that `write_pairs` wrote, on the executors.

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
    if not num_blocks:  # a tiny graph without pairs
        return
    # four tasks per core, because blocks differ in cost
    blocks = spark.range(0, num_blocks, 1, min(4 * spark.sparkContext.defaultParallelism, num_blocks))
    _run(blocks, _write_hard_negatives(graph, walks, hard, seed, folder, queries_per_block))


def read_training_data(
    folder: Place, csr: BipartiteCsr, network: Network, fit: Sgd, training: settings.Training, seed: int
) -> TrainingData:
    """Map what the functions above wrote, and the graph's edges where the network reads them.

    Args:
        csr: The run's graph.
    """
    num_nodes: dict[NodeType, int] = {"item": csr.item.num_nodes, "context": csr.context.num_nodes}
    features: dict[NodeType, F32] = {
        one: open_matrix(folder / _features_file(one))[: num_nodes[one]]
        for one, declared in network.inputs.items()
        if declared.feature_width is not None
    }
    relations: dict[str, Neighborhoods] = {}
    for update in (one for updates in network.layers for one in updates):
        if update.reads not in relations:
            read = _edges if update.neighbors == "edges" else partial(_walked, folder)
            relations[update.reads] = read(update.relation, csr)
    if fit.examples == "pairs":
        examples = Examples.of_pairs(open_array(folder / _PAIRS))
    else:
        examples = Examples.of_edges(csr, training.context_fraction, seed)
    hard = exists(folder / _HARD)
    return TrainingData(
        num_nodes,
        features,
        {"item": csr.item.keys, "context": csr.context.keys},
        relations,
        examples,
        HardNegatives(open_array(folder / _QUERIES), open_array(folder / _HARD)) if hard else None,
    )


def _edges(relation: Relation, csr: BipartiteCsr) -> Neighborhoods:
    side, _ = csr.sides(relation)
    return Neighborhoods(side.indptr.astype(np.int64), side.indices, np.ones(len(side.indices), np.int32))


def _walked(folder: Place, relation: Relation, csr: BipartiteCsr) -> Neighborhoods:
    side, _ = csr.sides(relation)
    neighbors, visits = (open_array(folder / name)[: side.num_nodes] for name in _list_files(relation))
    present = visits > 0  # [targets, num_neighbors]; padding has no visits
    indptr = np.concatenate([[0], np.cumsum(present.sum(axis=1))])
    return Neighborhoods(indptr, neighbors[present], visits[present])


def _run(frame: DataFrame, write: Callable[[Batches], Batches]) -> None:
    """Evaluate a writing map; it yields no rows."""
    frame.mapInArrow(write, "done int").count()


def _write_features(file: Place, width: int) -> Callable[[Batches], Batches]:
    def write(batches: Batches) -> Batches:
        with ArrayWriter(file) as writer:
            for batch in batches:
                nodes = batch.column(0).to_numpy().astype(np.int32)
                writer.write(nodes, read_vectors(batch.column(1), width))
        yield from ()

    return write


def _write_lists(files: tuple[Place, ...], width: int) -> Callable[[Batches], Batches]:
    def write(batches: Batches) -> Batches:
        with ArrayWriter(files[0]) as neighbors, ArrayWriter(files[1]) as visits:
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

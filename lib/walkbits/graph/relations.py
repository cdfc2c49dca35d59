"""Edges as neighborhoods: what layers over all edges read, from the graph folder, without a table."""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession
from pyspark.sql.types import StructType

from walkbits.arrays.places import Place
from walkbits.arrays.vectors import list_array
from walkbits.graph.csr import BipartiteCsr, read_meta
from walkbits.schemas import ITEM, NEIGHBORHOODS
from walkbits.tables.rows import Batches, Rows
from walkbits.types import I32, Relation, target_of

NODES_PER_BATCH: Final = 4096
"""Nodes of one row of the task list and one Arrow batch out; results do not depend on it."""
COLUMNS: Final = ("node", "neighbors", "visits")
ROWS: Final = StructType([NEIGHBORHOODS.schema[name] for name in COLUMNS])


def node_blocks(
    spark: SparkSession,
    graph: Place,
    relation: Relation,
    partitions: int | None = None,
    nodes_per_batch: int = NODES_PER_BATCH,
) -> Rows:
    """Numbers of blocks of target nodes, one row for each `nodes_per_batch` of them.

    Args:
        partitions: Tasks; default four per core, because blocks differ in cost.
    """
    blocks = -(-num_targets(graph, relation) // nodes_per_batch)
    wanted = partitions or 4 * spark.sparkContext.defaultParallelism
    return Rows.of(spark.range(0, blocks, 1, max(1, min(wanted, blocks))))


def num_targets(graph: Place, relation: Relation) -> int:
    """Nodes of a relation's target type in a graph folder."""
    meta = read_meta(graph)
    return int(meta["num_items"] if target_of(relation) == ITEM else meta["num_contexts"])


def block_nodes(block: int, num_nodes: int, nodes_per_batch: int = NODES_PER_BATCH) -> I32:
    """The nodes of a block: int32 [<= nodes_per_batch]."""
    low = block * nodes_per_batch
    return np.arange(low, min(low + nodes_per_batch, num_nodes), dtype=np.int32)


def edge_neighborhoods(spark: SparkSession, graph: Place, relation: Relation) -> Rows:
    """One row per target node: its edges' other ends, ascending, each with one visit.

    Args:
        graph: The graph folder (see graph.csr), on storage that every host can access.

    Returns:
        node, neighbors, visits as in schemas.NEIGHBORHOODS.
    """
    num_nodes = num_targets(graph, relation)

    def read(batches: Batches) -> Batches:
        side, _ = BipartiteCsr.open(graph).sides(relation)
        for batch in batches:
            for block in batch.column("id").to_pylist():
                nodes = block_nodes(block, num_nodes)
                indptr = side.indptr[nodes[0] : nodes[-1] + 2].astype(np.int64)
                neighbors = np.asarray(side.indices[indptr[0] : indptr[-1]])
                lists = (neighbors, np.ones(len(neighbors), np.int32))
                columns = [pa.array(nodes), *(list_array(indptr - indptr[0], one) for one in lists)]
                yield pa.RecordBatch.from_arrays(columns, names=[*COLUMNS])

    return node_blocks(spark, graph, relation).then(read, ROWS)

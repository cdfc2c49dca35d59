"""The neighborhoods table on Spark: blocks of nodes walked on a mapped graph, no shuffle."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from walkbits import settings
from walkbits.arrays.places import Place
from walkbits.arrays.vectors import list_array
from walkbits.graph.csr import BipartiteCsr
from walkbits.graph.relations import COLUMNS, ROWS, block_nodes, node_blocks, num_targets
from walkbits.schemas import WEIGHT_SCALE
from walkbits.tables.rows import Batches, Rows, Step
from walkbits.types import Relation
from walkbits.walks.kernel import neighborhoods_of


def build_neighborhoods(
    spark: SparkSession,
    graph: Place,
    relation: Relation,
    walks: settings.Walks,
    seed: int,
    num_partitions: int | None = None,
    nodes_per_batch: int = 4096,
) -> Rows:
    """One row per node of the target type, isolated ones included.

    Args:
        spark: The session.
        graph: The graph folder (see graph.csr), on storage that every host reaches.
        relation: Target and source type.
        walks: The walks; see walks.kernel for what they do.
        seed: Seed of the run.
        num_partitions: Tasks to cut the nodes into; default four per core, because blocks
            differ in cost. The rows do not depend on it.
        nodes_per_batch: Nodes of one Arrow batch out, and least of a task; the rows do not depend on it.

    Returns:
        node, neighbors, visits as in schemas.NEIGHBORHOODS.

    Raises:
        InputError: there is no finished graph in the folder.
    """
    blocks = node_blocks(spark, graph, relation, num_partitions, nodes_per_batch)
    return blocks.then(_walk_blocks(graph, relation, walks, seed, nodes_per_batch), ROWS)


def weigh_by_context(edges: DataFrame, gamma: float, weighted: bool) -> DataFrame:
    """Edges whose weight is multiplied by degree(context)^gamma.

    All edges of a context share the factor, so only the choice of a context changes: it
    is drawn in proportion to weight * degree^gamma.

    Args:
        edges: item INT, context INT, weight BIGINT (fixed point 2^20).
        gamma: The exponent; 1 - alpha of RP3beta.
        weighted: Whether the edges' own weights count; otherwise each is 1.

    Returns:
        item INT, context INT, weight BIGINT (fixed point 2^20, at least one unit).
    """
    degrees = edges.groupBy("context").agg(F.count(F.lit(1)).alias("degree"))
    weight = F.col("weight") if weighted else F.lit(WEIGHT_SCALE)
    scaled = F.round(weight * F.pow(F.col("degree").cast("double"), F.lit(gamma))).cast("bigint")
    return edges.join(degrees, "context").select(
        "item", "context", F.greatest(scaled, F.lit(1).cast("bigint")).alias("weight")
    )


def _walk_blocks(
    graph: Place, relation: Relation, walks: settings.Walks, seed: int, nodes_per_batch: int
) -> Step:
    num_nodes = num_targets(graph, relation)

    def walk(batches: Batches) -> Batches:
        csr = BipartiteCsr.open(graph)
        for batch in batches:
            for block in batch.column("id").to_pylist():
                nodes = block_nodes(block, num_nodes, nodes_per_batch)
                found = neighborhoods_of(csr, relation, nodes, walks, seed)
                yield neighborhood_batch(nodes, *found)

    return walk


def neighborhood_batch(
    nodes: np.ndarray[tuple[int], np.dtype[np.int32]],
    indptr: np.ndarray[tuple[int], np.dtype[np.int64]],
    neighbors: np.ndarray[tuple[int], np.dtype[np.int32]],
    visits: np.ndarray[tuple[int], np.dtype[np.int32]],
) -> pa.RecordBatch:
    """Rows of the table over the flat arrays of `neighborhoods_of`, their values not copied."""
    return pa.RecordBatch.from_arrays(
        [
            pa.array(nodes),
            list_array(indptr, neighbors),
            list_array(indptr, visits),
        ],
        names=list(COLUMNS),
    )

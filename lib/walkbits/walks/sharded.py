"""Walks over a graph larger than a host: one shuffle of walker states per hop.

The graph's files are cut in ranges of consecutive rows, the shards. In every hop a walker
goes to the task of the shard that holds its row; the task maps that range only. What moves
is the walker's state (start, its key, walk, place), never adjacency and never a path: a
visit is the state after a hop, and counts are aggregated from the hops' states.

Draws, edges and order are those of walks.kernel, so both plans give the same rows. Each hop
is written before the next begins: a lost executor repeats its part of one hop.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from walkbits import settings
from walkbits.arrays.places import Place
from walkbits.graph.csr import Adjacency, BipartiteCsr
from walkbits.graph.relations import ROWS
from walkbits.rng import start_key, step_draw, walker_key
from walkbits.tables.rows import Batches, Rows, Step
from walkbits.types import Relation, source_of, target_of
from walkbits.walks.counting import penalties
from walkbits.walks.kernel import RESTART, hop
from walkbits.walks.replicated import neighborhood_batch

STATE: Final = "start int, key bigint, walk int, at int"
"""A walker: start node, its stable key, number of the walk, where it stands."""
_BATCH: Final = 1 << 16


def sharded_neighborhoods(
    spark: SparkSession,
    graph: Place,
    relation: Relation,
    walks: settings.Walks,
    seed: int,
    scratch: str,
    num_shards: int,
) -> Rows:
    """One row per node of the target type, equal to `build_neighborhoods`.

    Args:
        spark: The session.
        graph: The graph folder, on storage that every host reaches.
        relation: Target and source type.
        walks: The walks.
        seed: Seed of the run.
        scratch: Folder or URI for the states between hops; remove it once the result is written.
        num_shards: Ranges each side's rows are cut in; the rows do not depend on it.

    Returns:
        node, neighbors, visits as in schemas.NEIGHBORHOODS.
    """
    csr = BipartiteCsr.open(graph)
    out, home = csr.sides(relation)
    same_type = target_of(relation) == source_of(relation)
    states = spark.range(out.num_nodes).mapInArrow(_starts(graph, relation, walks), STATE)
    counted = []
    hops = 2 * walks.walk_length - (0 if same_type else 1)
    for number in range(hops):
        side = out if number % 2 == 0 else home
        moved = _by_shard(states, side.num_nodes, num_shards).mapInArrow(
            _move(graph, relation, walks, seed, number), f"{STATE}, visited int"
        )
        path = f"{scratch}/hop={number}"
        moved.write.mode("overwrite").parquet(path)
        written = spark.read.parquet(path)
        states = written.drop("visited")
        if (number % 2 == 1) == same_type:
            counted.append(f"{scratch}/hop={number}")
    visited = spark.read.parquet(*counted).where("start <> visited" if same_type else "true")
    counts = visited.groupBy("start", "visited").agg(F.count(F.lit(1)).alias("visits"))
    return _cut(spark, counts, graph, relation, walks, out.num_nodes)


def _by_shard(states: DataFrame, num_nodes: int, num_shards: int) -> DataFrame:
    """Walkers to the task of the range of rows they stand on, in the order of the rows."""
    shard = F.expr(f"cast(cast(at AS BIGINT) * {num_shards} div {max(1, num_nodes)} AS INT)")
    return states.repartitionById(num_shards, shard).sortWithinPartitions("at")


def _starts(graph: Place, relation: Relation, walks: settings.Walks) -> Step:
    def start(batches: Batches) -> Batches:
        out, _ = BipartiteCsr.open(graph).sides(relation)
        for batch in batches:
            nodes = batch.column(0).to_numpy()
            nodes = nodes[out.indptr[nodes + 1] > out.indptr[nodes]]
            size = max(1, _BATCH // walks.num_walks)
            for low in range(0, len(nodes), size):
                some = np.repeat(nodes[low : low + size], walks.num_walks).astype(np.int32)
                walk = np.tile(np.arange(walks.num_walks, dtype=np.int32), len(some) // walks.num_walks)
                yield _batch(start=some, key=out.keys[some], walk=walk, at=some)

    return start


def _move(graph: Place, relation: Relation, walks: settings.Walks, seed: int, number: int) -> Step:
    """One hop of every walker; after a hop home, the restart."""
    restart_below = np.uint64(int(walks.restart_probability * 2.0**64))

    def move(batches: Batches) -> Batches:
        csr = BipartiteCsr.open(graph)
        out, home = csr.sides(relation)
        side, other = (out, home) if number % 2 == 0 else (home, out)
        for batch in batches:
            start, key, walk, at = (column.to_numpy() for column in batch.columns)
            walkers = walker_key(start_key(np.uint64(seed), key.view(np.uint64)), walk.astype(np.uint64))
            visited = _hop(side, other, csr.weighted, walkers, np.uint64(number), at)
            place = visited
            if restart_below and number % 2 == 1:
                back = step_draw(walkers, RESTART + np.uint64(number // 2)) < restart_below
                place = np.where(back, start, visited)
            yield _batch(start=start, key=key, walk=walk, at=place, visited=visited)

    return move


def _hop(
    side: Adjacency,
    other: Adjacency,
    weighted: bool,
    walkers: NDArray[np.uint64],
    step: np.uint64,
    at: NDArray[np.int32],
) -> NDArray[np.int32]:
    place = at.astype(np.uint32)
    draws, entries, lasts = (np.empty(len(at), np.uint64) for _ in range(3))
    here, there = ((one.indptr, one.indices, one.cumulative) for one in (side, other))
    hop(here, there, weighted, walkers, step, len(at), draws, entries, lasts, place)
    return place.view(np.int32)


def _cut(
    spark: SparkSession, counts: DataFrame, graph: Place, relation: Relation,
    walks: settings.Walks, num_nodes: int,
) -> Rows:  # fmt: skip
    """The T highest per start, by visits times penalty descending, then index ascending."""
    score = F.col("visits")
    if walks.popularity_penalty:
        counts = counts.mapInArrow(
            _penalise(graph, relation, walks), "start int, visited int, visits bigint, penalty bigint"
        )
        score = F.col("visits") * F.col("penalty")
    entry = F.struct((-score).alias("order"), F.col("visited"), F.col("visits").cast("int").alias("visits"))
    top = counts.groupBy(F.col("start").alias("node")).agg(
        F.slice(F.sort_array(F.collect_list(entry)), 1, walks.num_neighbors).alias("top")
    )
    nodes = spark.range(num_nodes).select(F.col("id").cast("int").alias("node"))
    none = F.array().cast("array<int>")
    listed = nodes.join(top, "node", "left").select(
        "node",
        F.coalesce(F.col("top.visited"), none).alias("neighbors"),
        F.coalesce(F.col("top.visits"), none).alias("visits"),
    )
    return Rows.of(listed).then(_pack(), ROWS)


def _pack() -> Step:
    """Lists of Spark to those of the table."""

    def pack(batches: Batches) -> Batches:
        for batch in batches:
            nodes, neighbors, visits = batch.columns
            first, last = neighbors.offsets[0].as_py(), neighbors.offsets[-1].as_py()
            indptr = np.asarray(neighbors.offsets).astype(np.int64) - first
            flat = (np.asarray(lists.values)[first:last] for lists in (neighbors, visits))
            yield neighborhood_batch(nodes.to_numpy(), indptr, *flat)

    return pack


def _penalise(graph: Place, relation: Relation, walks: settings.Walks) -> Step:
    def penalise(batches: Batches) -> Batches:
        csr = BipartiteCsr.open(graph)
        out, home = csr.sides(relation)
        source = out if target_of(relation) == source_of(relation) else home
        table = penalties(walks.popularity_penalty, source.max_degree)
        for batch in batches:
            visited = batch.column("visited").to_numpy()
            yield batch.append_column(
                "penalty", pa.array(table[source.indptr[visited + 1] - source.indptr[visited]])
            )

    return penalise


def _batch(**columns: Any) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(values) for values in columns.values()], names=list(columns))

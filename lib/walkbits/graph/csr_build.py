"""The graph folder of graph.csr built on the executors, out of core."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from walkbits.arrays.mapped import ArrayWriter, create_array, open_file
from walkbits.arrays.places import Place, remove
from walkbits.errors import InputError, WalkbitsError
from walkbits.graph.csr import META, SIDES, dtype_of, lengths_of, read_meta, write_meta
from walkbits.schemas import CONTEXT, ITEM
from walkbits.tables.rows import Batches, Step
from walkbits.types import I64

CHUNK_BYTES: Final = 1 << 28
"""What one task of `csr_info` hashes. Part of the definition of `CsrInfo.sha256`."""


@dataclass(frozen=True)
class CsrInfo:
    """Size of a graph folder and sha256 over the chunk hashes of its files, in name order."""

    bytes: int
    sha256: str


def write_csr(
    edges: DataFrame,
    nodes: DataFrame,
    num_items: int,
    num_contexts: int,
    folder: Place,
    weighted: bool,
    rows_per_slice: int = 1 << 19,
) -> CsrInfo:
    """Build the folder on the executors, out of core; the driver sees one row per slice.

    Every side is cut in slices of consecutive nodes. Spark sorts a slice's node rows and
    edge rows (spilling as it must), and the slice's task streams them into its own byte
    ranges of the files (see arrays.mapped). A repeated or concurrent attempt writes the same
    bytes, and no partitioning or row order changes them. meta.json is written last.

    Args:
        edges: item INT, context INT, and weight BIGINT (fixed point, > 0) when weighted;
            pairs are unique.
        nodes: node_type STRING, node_id BIGINT (items first, then contexts), node_key BIGINT.
        num_items: Number of items.
        num_contexts: Number of contexts.
        folder: On storage that every host reaches.
        weighted: Whether to keep the weights.
        rows_per_slice: Edges that one task sorts and writes, about; only speed depends on it.

    Raises:
        InputError: node ids are not exactly 0..num_items + num_contexts - 1, or a weight
            is not positive. A repeated or dangling edge fails its task.
    """
    spark = edges.sparkSession
    num_nodes = {ITEM: num_items, CONTEXT: num_contexts}
    num_edges = edges.count()
    slices = {side: max(1, min(n, -(-num_edges // rows_per_slice))) for side, n in num_nodes.items()}
    # A slice's number counts through both sides: items' slices first.
    first_slice = {ITEM: 0, CONTEXT: slices[ITEM]}

    def rows(side: str, node: str, neighbor: str | None, value: Any, source: DataFrame) -> DataFrame:
        within = F.expr(f"cast({node} AS BIGINT) * {slices[side]} div {max(1, num_nodes[side])}")
        # One number to sort by, which Spark's radix sort takes whole: node, then neighbor + 1,
        # and 0 for the node's own row, which so comes before its edges.
        low = F.col(neighbor).cast("bigint") + 1 if neighbor else F.lit(0)
        return source.select(
            (within + first_slice[side]).cast("int").alias("slice"),
            (F.shiftleft(F.col(node).cast("bigint"), 32) + low).alias("pair"),
            value.cast("bigint").alias("value"),
        )

    weight = F.col("weight") if weighted else F.lit(1)
    items = nodes.where(F.col("node_type") == ITEM)
    contexts = nodes.where(F.col("node_type") == CONTEXT).withColumn("node_id", F.col("node_id") - num_items)
    everything = (
        rows(ITEM, "node_id", None, F.col("node_key"), items)
        .unionByName(rows(CONTEXT, "node_id", None, F.col("node_key"), contexts))
        .unionByName(rows(ITEM, "item", "context", weight, edges))
        .unionByName(rows(CONTEXT, "context", "item", weight, edges))
    )
    offsets = _slice_offsets(everything, num_nodes, slices, first_slice, num_edges)

    remove(folder / META)
    _create_arrays(folder, num_items, num_contexts, num_edges, weighted)
    writer = _slice_writer(folder, offsets, slices[ITEM], weighted)
    written = (
        everything.repartitionById(sum(slices.values()), F.col("slice"))
        .sortWithinPartitions("pair")
        .mapInArrow(writer, "rows BIGINT")
        .agg(F.sum("rows"))
        .first()
    )
    total = num_items + num_contexts + 2 * num_edges
    if written is None or (written[0] or 0) != total:
        raise InputError(f"graph rows must be stable while it is built: {total} expected, got {written}")
    write_meta(folder, num_items, num_contexts, num_edges, weighted)
    return csr_info(spark, folder)


def csr_info(spark: SparkSession, folder: Place) -> CsrInfo:
    """Size and hash of a graph folder, read back on the executors in chunks.

    sha256 is over one line `name offset digest` per chunk, so equal folders of any
    origin give equal hashes.
    """
    meta = read_meta(folder)
    sizes = {name: _size_of(folder / name) for name in sorted([*lengths_of(**meta), META])}
    chunks = [
        (name, offset) for name, size in sizes.items() for offset in range(0, max(1, size), CHUNK_BYTES)
    ]

    def digest(chunk: tuple[str, int]) -> str:
        name, offset = chunk
        with open_file(folder / name) as file:
            file.seek(offset)
            left = CHUNK_BYTES
            sha = hashlib.sha256()
            while left and (data := file.read(min(left, 1 << 20))):
                sha.update(data)
                left -= len(data)
        return f"{name} {offset} {sha.hexdigest()}\n"

    lines = spark.sparkContext.parallelize(chunks, len(chunks)).map(digest).collect()
    return CsrInfo(sum(sizes.values()), hashlib.sha256("".join(lines).encode()).hexdigest())


def _size_of(file: Place) -> int:
    with open_file(file) as stream:
        return stream.seek(0, os.SEEK_END)


def _slice_offsets(
    everything: DataFrame,
    num_nodes: dict[str, int],
    slices: dict[str, int],
    first_slice: dict[str, int],
    num_edges: int,
) -> list[tuple[int, int]]:
    """(first node, first edge) of every slice, within its side."""
    is_node = F.col("pair") % (1 << 32) == 0
    seen = {
        row["slice"]: row
        for row in everything.groupBy("slice")
        .agg(
            F.count_if(is_node).alias("nodes"),
            F.count_if(~is_node).alias("edges"),
            F.min(F.when(~is_node, F.col("value"))).alias("weight"),
        )
        .collect()
    }
    # An index out of range lands in no slice of its side, and its edge is missed there.
    offsets = []
    for side in SIDES:
        node, edge = 0, 0
        for number in range(first_slice[side], first_slice[side] + slices[side]):
            offsets.append((node, edge))
            row = seen.get(number)
            if row is None:
                continue
            if row["weight"] is not None and row["weight"] <= 0:
                raise InputError(f"weight must be > 0, got {row['weight']}; drop such edges at ingest")
            node, edge = node + row["nodes"], edge + row["edges"]
        if node != num_nodes[side] or edge != num_edges:
            raise InputError(
                f"nodes must hold each of {num_nodes[side]} {side}s once and edges only known ones, "
                f"got {node} nodes and {edge} of {num_edges} edges; rerun ingest"
            )
    return offsets


def _create_arrays(folder: Place, num_items: int, num_contexts: int, num_edges: int, weighted: bool) -> None:
    """The folder's arrays at full length."""
    for name, length in lengths_of(num_items, num_contexts, num_edges, weighted).items():
        create_array(folder / name, (length,), dtype_of(name, num_edges))
        if name.endswith("indptr.npy"):
            # Slices write where each row starts; this is where the last one ends.
            with ArrayWriter(folder / name) as file:
                file.write_run(length - 1, np.array([num_edges]))


def _slice_writer(folder: Place, offsets: list[tuple[int, int]], item_slices: int, weighted: bool) -> Step:
    """A mapInArrow function: sorted rows of slices -> their places in the arrays."""

    def write(batches: Batches) -> Batches:
        files: dict[str, ArrayWriter] = {}
        state: _SliceState | None = None
        rows = 0
        with ExitStack() as stack:
            for batch in batches:
                number, pair, value = (column.to_numpy() for column in batch.columns)
                if not len(number):
                    continue
                if state is None:
                    side = ITEM if number[0] < item_slices else CONTEXT
                    state = _SliceState(int(number[0]), side, *offsets[number[0]])
                if (number != state.number).any():
                    raise WalkbitsError(f"a task must get one slice of the graph, got {np.unique(number)}")
                for name, at, values in state.take(pair, value, weighted):
                    if name not in files:
                        files[name] = stack.enter_context(ArrayWriter(folder / name))
                    files[name].write_run(at, values)
                rows += len(number)
            for file in files.values():
                file.sync()
        yield pa.RecordBatch.from_pydict({"rows": pa.array([rows], pa.int64())})

    return write


@dataclass
class _SliceState:
    """How far a slice has been written; carried from one Arrow batch to the next."""

    number: int
    side: str
    next_node: int
    next_edge: int
    pair: int = -1
    """Last line taken."""
    total: int = 0
    """Weight of the row being written, so far."""

    def take(self, pair: I64, value: I64, weighted: bool) -> Iterator[tuple[str, int, NDArray[Any]]]:
        """Lines in order -> (array, first position, values) to write."""
        node, neighbor = pair >> 32, (pair & 0xFFFFFFFF) - 1
        is_node = neighbor < 0
        is_edge = ~is_node
        edges_before: I64 = np.cumsum(is_edge) - is_edge
        # Nodes are consecutive, and edges follow their node.
        row = self.next_node - 1 + np.cumsum(is_node)
        bad = (row != node) | (np.diff(pair, prepend=self.pair) <= 0)
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            raise InputError(
                f"graph rows must be each known node once and each edge once, got {self.side} "
                f"{node[first]} with neighbor {neighbor[first]} out of order; rerun ingest"
            )
        yield f"{self.side}_indptr.npy", self.next_node, self.next_edge + edges_before[is_node]
        yield f"{self.side}_keys.npy", self.next_node, value[is_node]
        yield f"{self.side}_indices.npy", self.next_edge, neighbor[is_edge]
        weight = np.where(is_edge, value, 0)
        running = self.total + np.cumsum(weight)
        # A row's running weight restarts at its node line: take off what came before it.
        before = np.maximum.accumulate(np.where(is_node, running, 0))
        if weighted:
            yield f"{self.side}_cumulative.npy", self.next_edge, (running - before)[is_edge]
        self.total = int(running[-1] - before[-1])
        self.pair = int(pair[-1])
        self.next_node += int(is_node.sum())
        self.next_edge += int(is_edge.sum())

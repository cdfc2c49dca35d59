"""Tasks of the source side: rows, as they are and projected, to mapped files or to destination blocks."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from walkbits.arrays.mapped import ArrayWriter
from walkbits.arrays.places import Place
from walkbits.arrays.positions import each_once, sums_of
from walkbits.arrays.vectors import binary_array
from walkbits.errors import InputError
from walkbits.inference.references import References, open_slots
from walkbits.inference.tasks import Block, Task, in_blocks, vectors
from walkbits.network import arithmetic
from walkbits.network.arithmetic import Weights
from walkbits.network.declaration import Dense
from walkbits.tables.rows import Batches, Rows
from walkbits.types import F32, I32


@dataclass(frozen=True)
class Landed:
    """What one task landed: the sums of its nodes (arrays.positions), or the caller's mistake."""

    count: int
    sum: int
    squares: int
    problem: str | None

    schema: ClassVar[str] = "count bigint, sum bigint, squares bigint, problem string"


@dataclass(frozen=True)
class Projection:
    """Where the projected rows of one relation go.

    Attributes:
        label: The pass, in the proof; None where nothing is computed.
        slots: Row of the cache of each source, -1 for the cold ones; None when all are mapped in place.
        matrix: File of the cache.
    """

    label: str | None
    dense: Dense
    slots: Place | None
    matrix: Place

    def of(self, nodes: I32, rows: F32, block_size: int, weights: Weights) -> F32:
        """fp32 [n, width] -> fp32 [n, width of what is pooled]."""
        if not len(rows):
            return rows

        def project(block: Block) -> F32:
            return block.gather(arithmetic.dense(block.spread(rows), self.dense, weights))

        return in_blocks(nodes, block_size, project)


@dataclass(frozen=True)
class Land(Task):
    """Rows of a node type to the files that a layer reads.

    Attributes:
        width: Columns of the rows.
        own: File for the rows themselves, or None.
        projections: Files for what they are projected to; of cold sources nothing is written.
    """

    width: int
    own: Place | None
    projections: tuple[Projection, ...]

    def run(self, batches: Batches) -> Batches:
        """(node, vector) -> one `Landed` row."""
        seen, problem = np.zeros(3, np.int64), None
        try:
            with ExitStack() as files:
                own = files.enter_context(ArrayWriter(self.own)) if self.own else None
                caches = [
                    _Cache(self, one, files.enter_context(ArrayWriter(one.matrix)))
                    for one in self.projections
                ]
                for nodes, rows in vectors(batches, self.width):
                    seen += sums_of(nodes)
                    if own:
                        own.write(nodes, rows)
                    for cache in caches:
                        cache.write(nodes, rows)
        except InputError as error:
            problem = str(error)
        count, total, squares = seen.tolist()
        yield pa.RecordBatch.from_pylist([asdict(Landed(count, total, squares, problem))])


def land(rows: Rows, task: Land, node_type: str, nodes: int) -> None:
    """Run the task on all rows (node, vector) of a node type.

    Raises:
        InputError: a vector of another width, or other nodes than 0, ..., nodes - 1, each once.
    """
    landed = [Landed(**row.asDict()) for row in rows.then(task.run, Landed.schema).to_frame().collect()]
    for one in landed:
        if one.problem:
            raise InputError(f"{node_type}: {one.problem}")
    if not each_once([(one.count, one.sum, one.squares) for one in landed], nodes):
        raise InputError(
            f"{node_type}: features must hold each of {nodes} nodes once, got "
            f"{sum(one.count for one in landed)} rows with nodes missing or doubled; rebuild the "
            "features from the run's graph"
        )


class _Cache:
    """Writes a task's rows as a relation pools them, and reports how many."""

    def __init__(self, task: Task, projection: Projection, file: ArrayWriter) -> None:
        self._task, self._projection, self._file = task, projection, file
        self._slots = open_slots(projection.slots) if projection.slots else None
        self._computed = 0

    def write(self, nodes: I32, rows: F32) -> None:
        """int32 [n], fp32 [n, width]."""
        task, projection = self._task, self._projection
        kept, places = _cached(nodes, self._slots)
        projected = projection.of(nodes[kept], rows[kept], task.block_size, task.weights.value)
        self._file.write(places, projected)
        self._computed += len(places)
        if projection.label:
            task.model_rows.report(projection.label, self._computed)


def _cached(nodes: I32, slots: I32 | None) -> tuple[slice | NDArray[np.bool_], I32]:
    """Which nodes have a row in the cache, and which row."""
    if slots is None:
        return slice(None), nodes
    if len(nodes) and (nodes.min() < 0 or nodes.max() >= len(slots)):
        raise InputError(
            f"node must be an index below {len(slots)}, got {nodes.min()} to {nodes.max()}; "
            "infer with the features of the run's own graph"
        )
    places = slots[nodes]
    kept = places >= 0
    return kept, places[kept]


@dataclass(frozen=True)
class Send(Task):
    """Cold source rows, projected, with the destination blocks that reference them.

    Attributes:
        width: Columns of the rows.
        references: File of `References`.
        dtype: numpy type of the messages.
    """

    width: int
    projection: Projection
    slots: Place
    references: Place
    dtype: str

    schema: ClassVar[str] = "node int, vector binary, blocks array<int>"

    def run(self, batches: Batches) -> Batches:
        """(node, vector) -> (node, vector, blocks)."""
        slots, computed = open_slots(self.slots), 0
        references = References(self.references, len(slots))
        for nodes, rows in vectors(batches, self.width):
            cold = slots[nodes] < 0
            sent = self.projection.of(nodes[cold], rows[cold], self.block_size, self.weights.value)
            computed += len(sent)
            if self.projection.label:
                self.model_rows.report(self.projection.label, computed)
            if len(sent):
                offsets, blocks = references.blocks(nodes[cold])
                yield pa.RecordBatch.from_arrays(
                    [
                        pa.array(nodes[cold]),
                        binary_array(sent, self.dtype),
                        pa.ListArray.from_arrays(offsets, blocks),
                    ],
                    names=["node", "vector", "blocks"],
                )

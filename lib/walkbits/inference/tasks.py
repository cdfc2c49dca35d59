"""What the engine's tasks do: Arrow batches in, blocks of arithmetic, rows or batches out.

Nothing here imports torch or talks to Spark, but for the count of model rows: a worker
that only infers starts in a second.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
from pyspark import Broadcast

from walkbits.errors import InputError
from walkbits.inference import arithmetic
from walkbits.inference.arithmetic import F32, I32, Weights
from walkbits.inference.proof import ModelRows
from walkbits.inference.rows import (
    MatrixWriter,
    binary_array,
    float_lists,
    open_matrix,
    read_lists,
    read_vectors,
)
from walkbits.models.card import Dense, Output, Update

Batches = Iterator[pa.RecordBatch]


@dataclass(frozen=True)
class Task:
    """What every task knows.

    Attributes:
        weights: The model, broadcast as plain arrays.
        block_size: Rows of one GEMM.
        model_rows: The proof; this pass reports as `label`.
    """

    weights: Broadcast[dict[str, F32]]
    block_size: int
    model_rows: ModelRows
    label: str


@dataclass(frozen=True)
class Finish:
    """How a node type's newest representation becomes its embedding.

    Attributes:
        earlier: Mapped matrices of h^0, h^1, ... when the output is the mean of all layers.
    """

    output: Output
    earlier: tuple[Path, ...]


@dataclass(frozen=True)
class Landed:
    """What one task landed: sums that show whether each node came once, or the caller's mistake."""

    rows: int
    node_sum: int
    square_sum: int
    problem: str | None

    schema: ClassVar[str] = "rows bigint, node_sum bigint, square_sum bigint, problem string"

    @staticmethod
    def check(tasks: Sequence[Landed], node_type: str, nodes: int) -> None:
        """Raise InputError unless the tasks saw each of 0, ..., nodes - 1 once."""
        for task in tasks:
            if task.problem:
                raise InputError(f"{node_type}: {task.problem}")
        seen = [
            sum(one) % 2**64 for one in zip(*((t.rows, t.node_sum, t.square_sum) for t in tasks), strict=True)
        ]
        wanted = [nodes, nodes * (nodes - 1) // 2 % 2**64, (nodes - 1) * nodes * (2 * nodes - 1) // 6 % 2**64]
        if seen != wanted:
            raise InputError(
                f"{node_type}: features must hold each of {nodes} nodes once, got {seen[0] if seen else 0} "
                "rows with nodes missing or doubled; rebuild the features from the run's graph"
            )


@dataclass(frozen=True)
class Land(Task):
    """Source rows, as they are and projected, into matrix files.

    Attributes:
        width: Columns of the rows.
        own: File for the rows themselves, or None.
        projected: Files for what each relation pools, by its projection.
    """

    width: int
    own: Path | None
    projected: tuple[tuple[Path, Dense], ...]

    def run(self, batches: Batches) -> Batches:
        """(node, vector) -> one `Landed` row."""
        weights = self.weights.value
        seen, problem = np.zeros(3, np.int64), None
        try:
            with ExitStack() as files:
                own = files.enter_context(MatrixWriter(self.own)) if self.own else None
                projected = [
                    (files.enter_context(MatrixWriter(path)), dense) for path, dense in self.projected
                ]
                for nodes, block in _vector_blocks(batches, self.width, self.block_size):
                    if own:
                        own.write(nodes, block[: len(nodes)])
                    for file, dense in projected:
                        file.write(nodes, arithmetic.dense(block, dense, weights)[: len(nodes)])
                    wide = nodes.astype(np.int64)
                    seen += len(wide), wide.sum(), (wide * wide).sum()  # modulo 2^64
        except InputError as error:
            problem = str(error)
        if self.projected:
            self.model_rows.report(self.label, int(seen[0]))
        yield pa.RecordBatch.from_pylist([asdict(Landed(int(seen[0]), int(seen[1]), int(seen[2]), problem))])


@dataclass(frozen=True)
class Convolve(Task):
    """Target nodes past the mapped sources: pool, combine, activate, normalise, and finish in the last layer.

    Attributes:
        pooled: Matrix of the (projected) sources.
        own: Matrix of the targets' own representations, unless only the pooled vector counts.
        references: How often each source is referenced, fp32 [sources, 1], for degree normalisation.
    """

    update: Update
    pooled: Path
    own: Path | None
    references: Path | None
    finish: Finish | None

    def run(self, batches: Batches) -> Batches:
        """(node, neighbors, visits) -> (node_type, node, vector)."""
        weights, update = self.weights.value, self.update
        pooled = open_matrix(self.pooled)
        own = open_matrix(self.own) if self.own else None
        references = open_matrix(self.references)[:, 0] if self.references else None
        finish = _Finisher(self.finish, weights) if self.finish else None
        rows = 0
        for batch in batches:
            for start in range(0, batch.num_rows, self.block_size):
                part = batch.slice(start, self.block_size)
                nodes = part.column(0).to_numpy()
                indptr, neighbors = read_lists(part.column(1))
                _, visits = read_lists(part.column(2))
                _check_neighbors(neighbors, len(pooled), update)
                shares = arithmetic.pool_weights(indptr, visits, update.pool)
                if references is not None:
                    shares = arithmetic.degree_normalised(shares, indptr, references[neighbors])
                n = arithmetic.pool(pooled, indptr, neighbors, shares, update.pool)
                mine = _padded(own[nodes], self.block_size) if own is not None else n
                sizes = _padded(np.diff(indptr), self.block_size)
                h = arithmetic.combine(mine, _padded(n, self.block_size), sizes, update.combine)
                h = arithmetic.linear(h, update.linear, weights)  # [block_size, width of the layer]
                h = arithmetic.activate(h, update.activation)
                if update.normalise:
                    h = arithmetic.normalise(h)
                rows += len(nodes)
                self.model_rows.report(self.label, rows)
                yield _rows_out(
                    update.target, nodes, finish(nodes, h) if finish else h, embedding=finish is not None
                )


@dataclass(frozen=True)
class Embed(Task):
    """Newest representations to embeddings, for a node type that the last layer does not update."""

    node_type: str
    width: int
    finish: Finish

    def run(self, batches: Batches) -> Batches:
        """(node, vector) -> (node_type, node, embedding)."""
        finish = _Finisher(self.finish, self.weights.value)
        rows = 0
        for nodes, block in _vector_blocks(batches, self.width, self.block_size):
            rows += len(nodes)
            self.model_rows.report(self.label, rows)
            yield _rows_out(self.node_type, nodes, finish(nodes, block), embedding=True)


class _Finisher:
    """Mean of layers, head and normalisation on padded blocks."""

    def __init__(self, finish: Finish, weights: Weights) -> None:
        self._output, self._weights = finish.output, weights
        self._earlier = [open_matrix(path) for path in finish.earlier]

    def __call__(self, nodes: I32, newest: F32) -> F32:
        """fp32 [block_size, width] -> fp32 [block_size, embedding_size]."""
        x = newest
        if self._output.layers == "mean":
            total = np.zeros_like(newest)
            for matrix in self._earlier:
                total[: len(nodes)] += matrix[nodes]
            x = (total + newest) / np.float32(len(self._earlier) + 1)
        for dense in self._output.head:
            x = arithmetic.dense(x, dense, self._weights)
        return arithmetic.normalise(x) if self._output.normalise else x


@dataclass(frozen=True)
class LandCounts:
    """How often each source is referenced, into a matrix file of one column."""

    path: Path

    def run(self, batches: Batches) -> Batches:
        """(node, count) -> one row (rows)."""
        rows = 0
        with MatrixWriter(self.path) as file:
            for batch in batches:
                counts = batch.column(1).to_numpy().astype(np.float32)
                file.write(batch.column(0).to_numpy(), counts[:, None])
                rows += batch.num_rows
        yield pa.RecordBatch.from_pydict({"rows": [rows]})


@dataclass(frozen=True)
class ReadMatrix:
    """Rows of a matrix file as a table, for inputs that are part of the model."""

    matrix: Path
    rows: int
    block_size: int

    def run(self, batches: Batches) -> Batches:
        """(number of a block) -> (node, vector)."""
        matrix = open_matrix(self.matrix)
        for batch in batches:
            for block in batch.column(0).to_pylist():
                nodes = np.arange(
                    block * self.block_size, min((block + 1) * self.block_size, self.rows), dtype=np.int32
                )
                yield pa.RecordBatch.from_arrays(
                    [pa.array(nodes), binary_array(matrix[nodes])], names=["node", "vector"]
                )


def _vector_blocks(batches: Batches, width: int, block_size: int) -> Iterator[tuple[I32, F32]]:
    """(node, vector) batches as (nodes int32 [n], fp32 [block_size, width] whose first n rows count)."""
    for batch in batches:
        for start in range(0, batch.num_rows, block_size):
            part = batch.slice(start, block_size)
            yield part.column(0).to_numpy(), _padded(read_vectors(part.column(1), width), block_size)


def _padded(rows: np.ndarray, height: int) -> np.ndarray:
    """Rows of zeros added up to a fixed height."""
    if len(rows) == height:
        return rows
    padded = np.zeros((height, *rows.shape[1:]), rows.dtype)
    padded[: len(rows)] = rows
    return padded


def _check_neighbors(neighbors: I32, sources: int, update: Update) -> None:
    # The pooling kernel does not check bounds: an index outside the matrix would read foreign memory.
    if len(neighbors) and (neighbors.min() < 0 or neighbors.max() >= sources):
        raise IndexError(
            f"{update.relation}: neighbors must be indices below {sources}, got {neighbors.min()} to "
            f"{neighbors.max()}; neighborhoods and features must come from one run"
        )


def _rows_out(node_type: str, nodes: I32, block: F32, *, embedding: bool) -> pa.RecordBatch:
    rows = block[: len(nodes)]
    kind = pa.DictionaryArray.from_arrays(np.zeros(len(nodes), np.int32), [node_type]).cast(pa.string())
    vector = float_lists(rows) if embedding else binary_array(rows)
    return pa.RecordBatch.from_arrays(
        [kind, pa.array(nodes), vector],
        names=["node_type", "node", "embedding" if embedding else "representation"],
    )

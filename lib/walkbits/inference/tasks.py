"""What the engine's tasks do: Arrow batches in, blocks of arithmetic, rows or batches out.

Nothing here imports torch or talks to Spark, but for the count of model rows: a worker
that only infers starts in a second.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pyspark import Broadcast

from walkbits.errors import InputError, WalkbitsError
from walkbits.inference import arithmetic
from walkbits.inference.arithmetic import F32, I32, I64, Weights
from walkbits.inference.proof import ModelRows
from walkbits.inference.references import References, open_slots
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
class Projection:
    """Where the projected rows of one relation go.

    Attributes:
        label: The pass, in the proof; None where nothing is computed.
        slots: Row of the cache of each source, -1 for the cold ones; None when all are mapped in place.
        matrix: File of the cache.
    """

    label: str | None
    dense: Dense
    slots: Path | None
    matrix: Path

    def of(self, rows: F32, block_size: int, weights: Weights) -> F32:
        """At most block_size rows, projected in a block of that height."""
        if not len(rows):
            return rows
        return arithmetic.dense(_padded(rows, block_size), self.dense, weights)[: len(rows)]


@dataclass(frozen=True)
class Task:
    """What every task knows.

    Attributes:
        weights: The model, broadcast as plain arrays.
        block_size: Rows of one GEMM.
        model_rows: The proof.
    """

    weights: Broadcast[dict[str, F32]]
    block_size: int
    model_rows: ModelRows


@dataclass(frozen=True)
class Land(Task):
    """Source rows, as they are and projected, into matrix files; of cold sources only as they are.

    Attributes:
        width: Columns of the rows.
        own: File for the rows themselves, or None.
    """

    width: int
    own: Path | None
    projections: tuple[Projection, ...]

    def run(self, batches: Batches) -> Batches:
        """(node, vector) -> one `Landed` row."""
        weights = self.weights.value
        seen, problem = np.zeros(3, np.int64), None
        computed = [0] * len(self.projections)
        try:
            with ExitStack() as files:
                own = files.enter_context(MatrixWriter(self.own)) if self.own else None
                caches = [files.enter_context(MatrixWriter(one.matrix)) for one in self.projections]
                slots = [open_slots(one.slots) if one.slots else None for one in self.projections]
                for nodes, rows in _vector_blocks(batches, self.width, self.block_size):
                    if own:
                        own.write(nodes, rows)
                    wide = nodes.astype(np.int64)
                    seen += len(wide), wide.sum(), (wide * wide).sum()  # modulo 2^64
                    for i, projection in enumerate(self.projections):
                        places, cached = _cached(nodes, rows, slots[i])
                        caches[i].write(places, projection.of(cached, self.block_size, weights))
                        computed[i] += len(places)
        except InputError as error:
            problem = str(error)
        for projection, rows_computed in zip(self.projections, computed, strict=True):
            if projection.label:
                self.model_rows.report(projection.label, rows_computed)
        yield pa.RecordBatch.from_pylist([asdict(Landed(int(seen[0]), int(seen[1]), int(seen[2]), problem))])


def _cached(nodes: I32, rows: F32, slots: I32 | None) -> tuple[I32, F32]:
    if slots is None:
        return nodes, rows
    places = slots[nodes]
    return places[places >= 0], rows[places >= 0]


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
    slots: Path
    references: Path
    dtype: str

    schema: ClassVar[str] = "node int, vector binary, blocks array<int>"

    def run(self, batches: Batches) -> Batches:
        """(node, vector) -> (node, vector, blocks)."""
        slots, computed = open_slots(self.slots), 0
        references = References(self.references, len(slots))
        for nodes, rows in _vector_blocks(batches, self.width, self.block_size):
            cold = slots[nodes] < 0
            vectors = self.projection.of(rows[cold], self.block_size, self.weights.value)
            computed += len(vectors)
            if self.projection.label:
                self.model_rows.report(self.projection.label, computed)
            if len(vectors):
                offsets, blocks = references.blocks(nodes[cold])
                yield pa.RecordBatch.from_arrays(
                    [
                        pa.array(nodes[cold]),
                        binary_array(vectors, self.dtype),
                        pa.ListArray.from_arrays(offsets, blocks),
                    ],
                    names=["node", "vector", "blocks"],
                )


@dataclass(frozen=True)
class Convolve(Task):
    """Target nodes past the mapped sources: pool, combine, activate, normalise, and finish in the last layer.

    Attributes:
        label: The pass, in the proof.
        pooled: Matrix of the (projected) sources.
        own: Matrix of the targets' own representations, unless only the pooled vector counts.
        references: File of `References`, for degree normalisation.
        sources: Nodes of the source type.
    """

    label: str
    update: Update
    pooled: Path
    own: Path | None
    references: Path | None
    sources: int
    finish: Finish | None

    def run(self, batches: Batches) -> Batches:
        """(node, neighbors, visits) -> (node_type, node, vector)."""
        pooled, shares, leave = open_matrix(self.pooled), _Shares(self), _Leaver(self)
        for batch in batches:
            for start in range(0, batch.num_rows, self.block_size):
                part = batch.slice(start, self.block_size)
                indptr, neighbors, weights = shares(part.column(1), part.column(2))
                n = arithmetic.pool(pooled, indptr, neighbors, weights, self.update.pool)
                yield leave(part.column(0).to_numpy(), n, np.diff(indptr))


@dataclass(frozen=True)
class ConvolveBlock(Convolve):
    """The same for one destination block at a time: the cached sources, then the cold ones as they come.

    `pooled` is the cache. Sums run over the cached neighbors in the order they are listed,
    then over the cold ones by index, so that blocks and partitions do not change a bit.

    Attributes:
        slots: Row of the cache of each source, -1 for the cold ones.
        width: Columns of what is pooled.
        dtype: numpy type of the messages.
    """

    slots: Path
    width: int
    dtype: str

    def run(self, batches: Batches) -> Batches:
        """(message, node, vector, neighbors, visits), one block: targets, then cold sources by index."""
        leave, slots = _Leaver(self), open_slots(self.slots)
        targets, messages = _split(batches)
        parts, shares = list(targets), _Shares(self)
        if not parts:
            return
        read = [shares(part.column(3), part.column(4)) for part in parts]
        sizes = np.concatenate([np.diff(indptr) for indptr, _, _ in read])
        indptr = np.concatenate([[0], np.cumsum(sizes)])
        neighbors = np.concatenate([one for _, one, _ in read])
        weights = np.concatenate([one for _, _, one in read])
        del read
        rows = slots[neighbors]
        hot = rows >= 0
        cached = np.concatenate([[0], np.cumsum(hot)])[indptr]
        pooled = arithmetic.pool(
            open_matrix(self.pooled), cached, rows[hot], weights[hot], self.update.pool
        )  # [targets of the block, width]
        touched = np.diff(cached) > 0
        cold = np.flatnonzero(~hot)
        cold = cold[np.argsort(neighbors[cold], kind="stable")]
        sources = neighbors[cold]
        owners = (np.searchsorted(indptr, cold, side="right") - 1).astype(np.int32)
        weights = weights[cold]
        met = 0
        for part in (one for one in messages if one.num_rows):
            came = part.column(1).to_numpy()
            low, high = np.searchsorted(sources, came), np.searchsorted(sources, came, side="right")
            if not (low[1:] == high[:-1]).all() or low[0] != met:
                break
            met = int(high[-1])
            bounds = np.append(low, met)
            vectors = read_vectors(part.column(2), self.width, self.dtype)
            arithmetic.scatter(pooled, touched, vectors, bounds, owners, weights, self.update.pool)
        if met != len(sources):
            raise WalkbitsError(
                f"{self.update.relation}: a block must receive each cold source it references once, "
                f"got {met} of {len(sources)} references; look for lost rows in the layer before"
            )
        nodes = np.concatenate([part.column(1).to_numpy() for part in parts])
        for start in range(0, len(nodes), self.block_size):
            piece = slice(start, start + self.block_size)
            yield leave(nodes[piece], pooled[piece], sizes[piece])


def _split(batches: Batches) -> tuple[Batches, Batches]:
    """Rows whose first column is false, which come first, and the others.

    The second iterator may be read once the first is exhausted.
    """
    rest: list[pa.RecordBatch] = []

    def before() -> Batches:
        for batch in batches:
            count = batch.num_rows - batch.column(0).true_count
            if count:
                yield batch.slice(0, count)
            if count < batch.num_rows:
                rest.append(batch.slice(count))
                return

    def after() -> Batches:
        yield from rest
        yield from batches

    return before(), after()


class _Shares:
    """What each neighbor counts: (neighbors, visits) to (indptr, neighbors, weights)."""

    def __init__(self, task: Convolve) -> None:
        self._update, self._sources = task.update, task.sources
        self._references = References(task.references, task.sources) if task.references else None

    def __call__(self, neighbors_column: Any, visits_column: Any) -> tuple[I64, I32, F32]:
        indptr, neighbors = read_lists(neighbors_column)
        _, visits = read_lists(visits_column)
        _check_neighbors(neighbors, self._sources, self._update)
        weights = arithmetic.pool_weights(indptr, visits, self._update.pool)
        if self._update.degree_normalised:
            assert self._references is not None
            counts = self._references.counts(neighbors).astype(np.float32)
            weights = arithmetic.degree_normalised(weights, indptr, counts)
        return indptr, neighbors, weights


class _Leaver:
    """Pooled rows to rows of the next layer, or to embeddings."""

    def __init__(self, task: Convolve) -> None:
        self._task, self._rows = task, 0
        self._own = open_matrix(task.own) if task.own else None
        self._finish = _Finisher(task.finish, task.weights.value) if task.finish else None

    def __call__(self, nodes: I32, pooled: F32, sizes: I64) -> pa.RecordBatch:
        """int32 [n], fp32 [n, hidden], int64 [n], n <= block_size -> (node_type, node, vector)."""
        task, update, height = self._task, self._task.update, self._task.block_size
        n = _padded(pooled, height)
        own = _padded(self._own[nodes], height) if self._own is not None else n
        h = arithmetic.combine(own, n, _padded(sizes, height), update.combine)
        h = arithmetic.linear(h, update.linear, task.weights.value)  # [block_size, width of the layer]
        h = arithmetic.activate(h, update.activation)
        if update.normalise:
            h = arithmetic.normalise(h)
        self._rows += len(nodes)
        task.model_rows.report(task.label, self._rows)
        out = self._finish(nodes, h) if self._finish else h
        return _rows_out(update.target, nodes, out, embedding=self._finish is not None)


@dataclass(frozen=True)
class Embed(Task):
    """Newest representations to embeddings, for a node type that the last layer does not update."""

    label: str
    node_type: str
    width: int
    finish: Finish

    def run(self, batches: Batches) -> Batches:
        """(node, vector) -> (node_type, node, embedding)."""
        finish = _Finisher(self.finish, self.weights.value)
        rows = 0
        for nodes, newest in _vector_blocks(batches, self.width, self.block_size):
            rows += len(nodes)
            self.model_rows.report(self.label, rows)
            out = finish(nodes, _padded(newest, self.block_size))
            yield _rows_out(self.node_type, nodes, out, embedding=True)


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
    """(node, vector) batches as (nodes int32 [n], fp32 [n, width]), n <= block_size."""
    for batch in batches:
        for start in range(0, batch.num_rows, block_size):
            part = batch.slice(start, block_size)
            yield part.column(0).to_numpy(), read_vectors(part.column(1), width)


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

"""Tasks of the target side: past the mapped sources to the next layer's rows, or to embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from walkbits.arrays.mapped import open_matrix
from walkbits.arrays.places import Place
from walkbits.arrays.vectors import binary_array, float_lists, read_lists, read_vectors
from walkbits.errors import InputError, WalkbitsError
from walkbits.inference.references import References, open_slots
from walkbits.inference.tasks import Block, Task, in_blocks, span, vectors
from walkbits.network import arithmetic
from walkbits.network.arithmetic import Weights
from walkbits.network.declaration import Output, Update
from walkbits.tables.rows import Batches
from walkbits.types import F32, I32, I64


@dataclass(frozen=True)
class Finish:
    """How a node type's newest representation becomes its embedding.

    Attributes:
        earlier: Mapped matrices of h^0, h^1, ... when the output is made of all layers.
        width: Columns of what the output's head reads.
    """

    output: Output
    earlier: tuple[Place, ...]
    width: int


@dataclass(frozen=True)
class Convolve(Task):
    """Target nodes past the mapped sources: pool, combine, activate, normalise, and finish in the last layer.

    Attributes:
        label: The pass, in the proof.
        pooled: Matrix of the (projected) sources.
        own: Matrix of the targets' own representations, unless only the pooled vector counts.
        references: File of `References`, for degree normalisation.
        sources: Nodes of the source type.
        finish: In the last layer, how they become embeddings.
    """

    label: str
    update: Update
    pooled: Place
    own: Place | None
    references: Place | None
    sources: int
    finish: Finish | None

    def run(self, batches: Batches) -> Batches:
        """(node, neighbors, visits) -> (node_type, node, vector)."""
        pooled, shares = open_matrix(self.pooled), _Shares(self)
        leave = _Leaver(self)
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

    slots: Place
    width: int
    dtype: str

    def run(self, batches: Batches) -> Batches:
        """(message, node, vector, neighbors, visits), one block: targets, then cold sources by index."""
        slots = open_slots(self.slots)
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
        leave = _Leaver(self)
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
        if self._update.degree_exponents:
            assert self._references is not None
            counts = self._references.counts(neighbors).astype(np.float32)
            weights = arithmetic.degree_weights(weights, indptr, counts, self._update.degree_exponents)
        return indptr, neighbors, weights


class _Leaver:
    """Pooled rows to rows of the layer, or to embeddings."""

    def __init__(self, task: Convolve) -> None:
        self._task, self._rows, self._node_sum = task, 0, 0
        self._own = open_matrix(task.own) if task.own else None
        self._finish = _Finisher(task.finish, task.weights.value) if task.finish else None

    def __call__(self, nodes: I32, pooled: F32, sizes: I64) -> pa.RecordBatch:
        """int32 [n], fp32 [n, hidden], int64 [n], n <= block_size -> (node_type, node, vector)."""
        task, update = self._task, self._task.update
        own = self._own[span(nodes)] if self._own is not None else None
        columns = arithmetic.combine(own, pooled, sizes, update)

        def leave(block: Block) -> F32:
            h = block.spread(*columns)  # [height, width of what is combined]
            h = arithmetic.linear(h, update.linear, task.weights.value)  # [height, width of the layer]
            h = arithmetic.activate(h, update.activation)
            if update.normalise:
                h = arithmetic.normalise(h)
            return block.gather(self._finish(block, h) if self._finish else h)

        out = in_blocks(nodes, task.block_size, leave)
        self._rows += len(nodes)
        self._node_sum += int(nodes.sum(dtype=np.int64))
        task.model_rows.report(task.label, self._rows, self._node_sum)
        return _rows_out(update.target, nodes, out, embedding=self._finish is not None)


@dataclass(frozen=True)
class Embed(Task):
    """Newest representations to embeddings, for a node type that the last layer does not update.

    Attributes:
        leave_out: Whether a node without a row has nothing else, and so the zero vector.
    """

    label: str
    node_type: str
    width: int
    finish: Finish
    leave_out: bool

    def run(self, batches: Batches) -> Batches:
        """(node, vector) -> (node_type, node, embedding)."""
        finish = _Finisher(self.finish, self.weights.value)
        rows = 0
        for nodes, newest in vectors(batches, self.width):
            rows += len(nodes)
            self.model_rows.report(self.label, rows)
            out = _embedded(finish, nodes, newest, self.block_size)
            if self.leave_out:
                out[~newest.any(axis=1)] = 0
            yield _rows_out(self.node_type, nodes, out, embedding=True)


def _embedded(finish: _Finisher, nodes: I32, newest: F32, block_size: int) -> F32:
    return in_blocks(nodes, block_size, lambda block: block.gather(finish(block, block.spread(newest))))


class _Finisher:
    """Mean of layers, head and normalisation on blocks."""

    def __init__(self, finish: Finish, weights: Weights) -> None:
        self._output, self._weights = finish.output, weights
        self._earlier = [open_matrix(path) for path in finish.earlier]
        self._width = finish.width

    def __call__(self, block: Block, newest: F32) -> F32:
        """fp32 [height, width] -> fp32 [height, embedding_size]."""
        x = newest
        if self._output.layers == "mean":
            total = np.zeros_like(newest)
            for matrix in self._earlier:
                total[block.places] += matrix[block.nodes]
            x = (total + newest) / np.float32(len(self._earlier) + 1)
        elif self._output.layers == "concat":
            x = np.zeros((len(newest), self._width), np.float32)  # [height, sum of widths]
            first = 0
            for matrix in self._earlier:
                x[block.places, first : first + matrix.shape[1]] = matrix[block.nodes]
                first += matrix.shape[1]
            x[:, first:] = newest
        for dense in self._output.head:
            x = arithmetic.dense(x, dense, self._weights)
        return arithmetic.normalise(x) if self._output.normalise else x


def _check_neighbors(neighbors: I32, sources: int, update: Update) -> None:
    # The pooling kernel does not check bounds: an index outside the matrix would read foreign memory.
    if len(neighbors) and (neighbors.min() < 0 or neighbors.max() >= sources):
        raise InputError(
            f"{update.relation}: neighbors must be indices below {sources}, got {neighbors.min()} to "
            f"{neighbors.max()}; neighborhoods and features must come from one run"
        )


def _rows_out(node_type: str, nodes: I32, rows: F32, *, embedding: bool) -> pa.RecordBatch:
    kind = pa.DictionaryArray.from_arrays(np.zeros(len(nodes), np.int32), [node_type]).cast(pa.string())
    vector = float_lists(rows) if embedding else binary_array(rows)
    return pa.RecordBatch.from_arrays(
        [kind, pa.array(nodes), vector],
        names=["node_type", "node", "embedding" if embedding else "representation"],
    )

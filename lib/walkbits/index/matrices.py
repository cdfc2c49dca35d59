"""Embeddings as matrices that hosts map: each task writes the rows that it reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from walkbits.arrays.mapped import ArrayWriter, create_matrix, open_array
from walkbits.arrays.places import Place
from walkbits.arrays.positions import each_once, sums_of
from walkbits.errors import EmptyInputError, InputError
from walkbits.index.codes import vectors
from walkbits.index.exact import lengths
from walkbits.network.arithmetic import supported
from walkbits.tables.rows import Batches, Rows
from walkbits.types import F32

Form = Callable[[pa.RecordBatch, F32], F32]
"""What is written of a batch and its embeddings [n, d]: fp32 [n, width]."""


def as_they_are(_: pa.RecordBatch, embeddings: F32) -> F32:
    """For embeddings of unit length."""
    return embeddings


def unit(_: pa.RecordBatch, embeddings: F32) -> F32:
    """Of length 1, or 0: products are cosines."""
    return unit_rows(embeddings)


def unit_rows(vectors: F32) -> F32:
    """Each row divided by its length; zeros stay zeros."""
    norms = np.sqrt(np.square(vectors, dtype=np.float64).sum(axis=1, keepdims=True))
    return np.asarray(vectors / np.where(norms > 0, norms, 1), np.float32)


def with_prior(batch: pa.RecordBatch, embeddings: F32) -> F32:
    """One coordinate more, the prior: products with `with_one` are inner product + prior."""
    return np.column_stack([embeddings, batch.column("prior").to_numpy().astype(np.float32)])


def with_one(_: pa.RecordBatch, embeddings: F32) -> F32:
    """One coordinate more, which is 1."""
    return np.column_stack([embeddings, np.ones(len(embeddings), np.float32)])


@dataclass(frozen=True)
class Supported:
    """A form of items whose rows count by their contexts: products with the form's rows are `Score`s.

    Attributes:
        form: Of unit length.
        indptr: Where each item's edges begin: int [items + 1], mapped.
        support: kappa of the score between items.
    """

    form: Form
    indptr: Place
    support: float

    def __call__(self, batch: pa.RecordBatch, embeddings: F32) -> F32:
        """See `Form`."""
        item, indptr = batch.column("node_id").to_numpy(), open_array(self.indptr)
        contexts = (indptr[item + 1] - indptr[item]).astype(np.int64)
        return self.form(batch, embeddings) * supported(contexts, self.support)[:, None]


def write_matrix(rows: Rows, count: int, width: int, matrix: Place, form: Form, first: int = 0) -> float:
    """Write the nodes first, ..., first + count - 1 as the rows of a matrix.

    Args:
        rows: node_id, embedding, and what `form` reads.
        width: of the rows that `form` makes.

    Returns:
        Length of the longest row, from above.

    Raises:
        EmptyInputError: count is 0.
        InputError: a node is missing or there twice, or vectors differ in size or are not finite.
    """
    if not count:
        raise EmptyInputError("embeddings must hold items, got none; run the layers first")
    create_matrix(matrix, count, width)
    write = _WriteMatrix(matrix, width, form, first)
    tasks = rows.then(write.run, write.schema).to_frame().collect()
    if not each_once([task[:3] for task in tasks], count):
        raise InputError(
            f"node_id of {count} nodes must be {first} to {first + count - 1}, each once, got "
            f"{sum(task[0] for task in tasks)} rows with some missing or doubled; rebuild the embeddings"
        )
    return float(max(task["longest"] for task in tasks)) * (1 + 1e-6)


@dataclass(frozen=True)
class _WriteMatrix:
    matrix: Place
    width: int
    form: Form
    first: int

    schema: ClassVar[str] = "count bigint, sum bigint, squares bigint, longest double"

    def run(self, batches: Batches) -> Batches:
        """Vectors -> one row: the sums of their positions, and the longest."""
        seen, longest = np.zeros(3, np.int64), 0.0
        with ArrayWriter(self.matrix) as file:
            for batch in batches:
                if not batch.num_rows:
                    continue
                rows = self.form(batch, vectors(batch.column("embedding")))
                if rows.shape[1] != self.width:
                    raise InputError(
                        f"embeddings must have one size, got rows of {rows.shape[1]} beside {self.width}; "
                        "rebuild the embeddings"
                    )
                if not np.isfinite(rows).all():
                    raise InputError("embeddings must be finite, got NaN or infinity; audit the run")
                positions = batch.column("node_id").to_numpy() - self.first
                file.write(positions, rows)
                seen += sums_of(positions)
                longest = max(longest, float(lengths(rows).max()))
        count, total, squares = seen.tolist()
        yield pa.RecordBatch.from_pylist(
            [{"count": count, "sum": total, "squares": squares, "longest": longest}]
        )

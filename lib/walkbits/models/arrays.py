"""What the trainer reads: features, heaviest neighbors and pairs as mapped arrays.

Executors write the files, the trainer maps them and touches only the pages its minibatches
need. Nothing is collected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from walkbits.errors import EmptyInputError
from walkbits.models.sampling import Neighborhoods
from walkbits.storage.vectors import MatrixWriter, create_matrix, read_lists, read_vectors

_FEATURES, _NEIGHBORS, _VISITS, _PAIRS = (f"{n}.npy" for n in ("features", "neighbors", "visits", "pairs"))
Batches = Iterator[pa.RecordBatch]


@dataclass(frozen=True)
class TrainingArrays:
    """Inputs of `training.train`.

    Attributes:
        features: fp32 [num_items, feature_width], mapped.
        neighborhoods: The heaviest neighbors of each item.
        pairs: int32 [num_pairs, 2], (query, positive).
    """

    features: NDArray[np.float32]
    neighborhoods: Neighborhoods
    pairs: NDArray[np.int32]


def write_training_arrays(
    *,
    features: DataFrame,
    neighborhoods: DataFrame,
    pairs: DataFrame,
    num_items: int,
    feature_width: int,
    num_neighbors: int,
    folder: Path,
) -> None:
    """Write the arrays on the executors.

    Args:
        features: (node_id, features BINARY) of all items.
        neighborhoods: (node, neighbors, visits) of relation item_from_item.
        pairs: (query, positive) in the order of `sampling.training_pairs`.
        num_neighbors: Neighbors kept per item.
        folder: On storage that the driver and all hosts see.

    Raises:
        EmptyInputError: no context in the sample holds two items.
    """
    folder.mkdir(parents=True, exist_ok=True)
    create_matrix(folder / _FEATURES, num_items, feature_width)
    _run(features.select("node_id", "features"), _write_features(folder, feature_width))
    for name in (_NEIGHBORS, _VISITS):
        create_matrix(folder / name, num_items, num_neighbors, "<i4")
    heaviest = [F.substring(c, 1, 4 * num_neighbors).alias(c) for c in ("neighbors", "visits")]
    _run(neighborhoods.select("node", *heaviest), _write_lists(folder, num_neighbors))
    # The sample's pairs are a bounded stream: contexts sampled x pairs_per_context.
    ordered = pairs.toArrow()
    if not ordered.num_rows:
        raise EmptyInputError(
            "training: at least one sampled context must hold two items, got none; "
            "raise training.context_fraction"
        )
    columns = [ordered[name].to_numpy() for name in ("query", "positive")]
    np.save(folder / _PAIRS, np.column_stack(columns).astype(np.int32))


def read_training_arrays(folder: Path) -> TrainingArrays:
    """Map what `write_training_arrays` wrote."""
    neighbors, visits = (np.load(folder / name, mmap_mode="r") for name in (_NEIGHBORS, _VISITS))
    present = visits > 0  # [num_items, num_neighbors]; padding has no visits
    indptr = np.concatenate([[0], np.cumsum(present.sum(axis=1))])
    return TrainingArrays(
        features=np.load(folder / _FEATURES, mmap_mode="r"),
        neighborhoods=Neighborhoods(indptr, neighbors[present], visits[present]),
        pairs=np.load(folder / _PAIRS),
    )


def _run(frame: DataFrame, write: Callable[[Batches], Batches]) -> None:
    """Evaluate a writing map; it yields no rows."""
    frame.mapInArrow(write, "done int").count()


def _write_features(folder: Path, width: int) -> Callable[[Batches], Batches]:
    def write(batches: Batches) -> Batches:
        with MatrixWriter(folder / _FEATURES) as writer:
            for batch in batches:
                nodes = batch.column("node_id").to_numpy().astype(np.int32)
                writer.write(nodes, read_vectors(batch.column("features"), width))
        yield from ()

    return write


def _write_lists(folder: Path, width: int) -> Callable[[Batches], Batches]:
    def write(batches: Batches) -> Batches:
        with MatrixWriter(folder / _NEIGHBORS) as neighbors, MatrixWriter(folder / _VISITS) as visits:
            for batch in batches:
                nodes = batch.column("node").to_numpy().astype(np.int32)
                for writer, name in ((neighbors, "neighbors"), (visits, "visits")):
                    writer.write(nodes, _padded(*read_lists(batch.column(name)), width))
        yield from ()

    return write


def _padded(indptr: NDArray[np.int64], values: NDArray[np.int32], width: int) -> NDArray[np.int32]:
    """Lists as rows of one width, zeros after the end: int32 [rows, width]."""
    rows = np.zeros((len(indptr) - 1, width), np.int32)
    rows[np.arange(width) < np.diff(indptr)[:, None]] = values
    return rows

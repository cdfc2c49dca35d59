"""Baselines every model is shown beside: popularity and item-KNN."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from walkbits.types import F64


def popularity(train: sparse.csr_array) -> F64:
    """Contexts of each item: fp64 [items] from a 0/1 matrix [contexts, items]."""
    return np.bincount(train.indices, minlength=train.shape[1]).astype(np.float64)


def item_knn(train: sparse.csr_array, num_neighbors: int = 100, block: int = 1024) -> sparse.csr_array:
    """Cosine similarity of items over contexts, each item's nearest `num_neighbors` kept.

        sim(i, j) = |contexts of i and j| / sqrt(|contexts of i| |contexts of j|),  i != j

    A context's score of item i is the sum of sim(i, j) over its items j among i's neighbors.

    Args:
        train: 0/1 matrix [contexts, items].
        num_neighbors: neighbors kept per item, ties by item.
        block: Items whose similarities are computed at once; the result does not depend on it.

    Returns:
        fp64 [items, items]: row i holds the neighbors of i. Scores are `train @ result.T`.
    """
    matrix = train.astype(np.float64)
    inverse = 1.0 / np.sqrt(np.maximum(popularity(train), 1.0))
    by_item = matrix.T.tocsr()
    kept = []
    for start in range(0, matrix.shape[1], block):
        common = (by_item[start : start + block] @ matrix).tocoo()  # [block, items]
        row, item = common.row + start, common.col
        similarity = common.data * inverse[row] * inverse[item]
        other = row != item
        kept.append(_strongest(row[other], item[other], similarity[other], num_neighbors))
    row, item, similarity = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    return sparse.csr_array((similarity, (row, item)), shape=(matrix.shape[1],) * 2)


def _strongest(
    row: NDArray[np.int_], item: NDArray[np.int_], similarity: F64, num_neighbors: int
) -> tuple[NDArray[np.int_], NDArray[np.int_], F64]:
    """The first `num_neighbors` entries of each row by (similarity descending, item ascending)."""
    order = np.lexsort((item, -similarity, row))
    row, item, similarity = row[order], item[order], similarity[order]
    place = np.arange(len(row)) - np.searchsorted(row, row)
    near = place < num_neighbors
    return row[near], item[near], similarity[near]

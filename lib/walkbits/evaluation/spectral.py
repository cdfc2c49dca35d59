"""Spectral vectors: the largest singular vectors of the degree-normalised interactions.

    M = D_c^-a X D_i^-b  ~  U S V^T         X: 0/1 [contexts, items], D: degrees

by a randomised range finder with power iterations (Halko, Martinsson, Tropp, SIAM Review 2011,
algorithm 4.4), a keyed start, fp64 orthogonalisation and fp32 products. The sign of each pair of vectors
makes the largest coordinate of the item vector positive.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy import sparse

from walkbits import rng
from walkbits.errors import ConfigError
from walkbits.types import F32, F64

_START: Final = int.from_bytes(b"spectral", "big")


def normalised(train: sparse.csr_array, context_exponent: float, item_exponent: float) -> sparse.csr_array:
    """D_c^-a X D_i^-b: fp32 [contexts, items]; rows and columns without edges stay zero."""
    contexts = np.maximum(np.diff(train.indptr), 1).astype(np.float64) ** -context_exponent
    degrees = np.bincount(train.indices, minlength=train.shape[1])
    items = np.maximum(degrees, 1).astype(np.float64) ** -item_exponent
    weight = np.repeat(contexts, np.diff(train.indptr)) * items[train.indices]
    return sparse.csr_array((weight.astype(np.float32), train.indices, train.indptr), shape=train.shape)


def randomised_svd(
    matrix: sparse.csr_array, rank: int, seed: int, oversampling: int = 16, iterations: int = 4
) -> tuple[F32, F64, F32]:
    """The `rank` largest singular triplets of a sparse matrix.

    Args:
        matrix: fp32 [n, m].
        rank: d.
        seed: of the start.
        oversampling: further columns of the range that is searched. 8 to 32.
        iterations: power iterations. 2 to 8; more for slowly falling singular values.

    Returns:
        U fp32 [n, d], S fp64 [d] descending, V fp32 [m, d].

    Raises:
        ConfigError: d exceeds the matrix.
    """
    smallest = min(matrix.shape)
    if not 1 <= rank <= smallest:
        raise ConfigError(
            f"embedding_size of a spectral model must be from 1 to {smallest}, the graph's smaller side, "
            f"got {rank}; lower it"
        )
    columns = min(rank + oversampling, smallest)
    transposed = matrix.T.tocsr()
    row, column = np.arange(matrix.shape[1])[:, None], np.arange(columns)
    start = rng.uniform(rng.draw(seed ^ _START, row, column)) - 0.5
    basis = _orthonormal(matrix @ start.astype(np.float32))
    for _ in range(iterations):
        basis = _orthonormal(matrix @ _orthonormal(transposed @ basis))
    small = np.asarray(transposed @ basis, np.float64)  # [m, columns]
    v, values, u = np.linalg.svd(small, full_matrices=False)
    left, right = basis.astype(np.float64) @ u[:rank].T, v[:, :rank]
    largest = np.abs(right).argmax(axis=0)
    sign = np.where(right[largest, np.arange(rank)] < 0, -1.0, 1.0)
    return (left * sign).astype(np.float32), values[:rank], (right * sign).astype(np.float32)


def fit(
    train: sparse.csr_array,
    embedding_size: int,
    seed: int,
    context_exponent: float = 0.5,
    item_exponent: float = 0.5,
    value_exponent: float = 0.0,
    popularity_exponent: float = 0.0,
) -> tuple[F32, F32]:
    """Item vectors V S^s D_i^p and, per context, the sum of D_c^-a D_i^-b V over its items.

    The inner product of the two is (M V) S^s V^T D_i^p: with s = 0 the projection of a context's row of M on
    the d largest directions, also of a context that was never trained on.

    Args:
        train: X, 0/1 [contexts, items].
        embedding_size: d. 64 to 512.
        seed: of the range finder's start.
        context_exponent: a. 0 to 0.5.
        item_exponent: b. 0.3 to 0.6.
        value_exponent: s; negative values flatten the spectrum. -1 to 2.
        popularity_exponent: p, which brings popularity back; b restores the scale of X. 0 to 0.6.

    Returns:
        fp32 [contexts, d] and [items, d]; a score is their inner product.

    Raises:
        ConfigError: d exceeds the graph.
    """
    matrix = normalised(train, context_exponent, item_exponent)
    _, values, directions = randomised_svd(matrix, embedding_size, seed)
    degrees = np.maximum(np.bincount(train.indices, minlength=train.shape[1]), 1).astype(np.float64)
    scale = np.maximum(values, np.finfo(np.float32).tiny) ** value_exponent
    items = directions.astype(np.float64) * scale * degrees[:, None] ** popularity_exponent
    return np.asarray(matrix @ directions, np.float32), items.astype(np.float32)


def _orthonormal(columns: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> F32:
    q, _ = np.linalg.qr(np.asarray(columns, np.float64))
    return q.astype(np.float32)

"""iALS: implicit alternating least squares with frequency regularisation (Rendle et al., RecSys 2022).

    L = sum over edges (u, i) of (<w_u, h_i> - 1)^2  +  a0 * sum over all pairs (u, i) of <w_u, h_i>^2
        + lambda * (sum over u of #u^nu |w_u|^2  +  sum over i of #i^nu |h_i|^2)

    #u = items of u + a0 * items in all,   #i = contexts of i + a0 * contexts in all

Half an epoch solves one side exactly, given the other:

    w_u = (H_u^T H_u + a0 H^T H + lambda #u^nu I)^-1  sum over the items i of u of h_i

which also embeds a context that was never trained on. Solves run in fp32, one row after the other in
its own memory, so results depend neither on blocks nor on threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numba import njit
from scipy import sparse

from walkbits import rng
from walkbits.types import F32, F64

_INIT: Final = int.from_bytes(b"ials", "big")


def fit(
    train: sparse.csr_array,
    embedding_size: int,
    unobserved_weight: float,
    regularisation: float,
    epochs: int,
    seed: int,
    nu: float = 1.0,
    every_epoch: Callable[[int, F32, F32], None] | None = None,
) -> tuple[F32, F32]:
    """Train from scratch; each epoch solves the contexts, then the items.

    Args:
        train: 0/1 [contexts, items].
        embedding_size: d. 64 to 2,048.
        unobserved_weight: a0. 0.005 to 0.3.
        regularisation: lambda. 0.002 to 0.05.
        epochs: 4 to 16.
        seed: of the first item vectors, normal with deviation 0.1 / sqrt(d).
        nu: exponent of the frequencies; 1 as published, 0 is plain ridge.
        every_epoch: called with the epoch, from 1, and both tables.

    Returns:
        fp32 [contexts, d] and [items, d]; a score is their inner product.
    """
    by_item = train.T.tocsr()
    by_item.sort_indices()
    contexts = np.zeros((train.shape[0], embedding_size), np.float32)
    items = first_vectors(train.shape[1], embedding_size, seed)
    for epoch in range(1, epochs + 1):
        contexts = solve(train, items, unobserved_weight, regularisation, nu)
        items = solve(by_item, contexts, unobserved_weight, regularisation, nu)
        if every_epoch is not None:
            every_epoch(epoch, contexts, items)
    # Contexts that answer the final items, as a new context's closed form would.
    return solve(train, items, unobserved_weight, regularisation, nu), items


def first_vectors(count: int, embedding_size: int, seed: int) -> F32:
    """Keyed normal vectors with deviation 0.1 / sqrt(d): fp32 [count, d]."""
    normal = keyed_normal(seed ^ _INIT, count, embedding_size)
    return np.asarray(normal * (0.1 / np.sqrt(embedding_size)), np.float32)


def keyed_normal(seed: int, rows: int, columns: int) -> F64:
    """Standard normal numbers by Box-Muller from keyed draws: fp64 [rows, columns]."""
    row, column = np.arange(rows)[:, None], np.arange(columns)
    u, v = (rng.uniform(rng.draw(seed, row, column, part)) for part in (0, 1))
    return np.asarray(np.sqrt(-2.0 * np.log1p(-u)) * np.cos(2.0 * np.pi * v))


def solve(
    rows: sparse.csr_array, other: F32, unobserved_weight: float, regularisation: float, nu: float = 1.0
) -> F32:
    """The best vector of each row, given the other side's: fp32 [rows, d].

    Args:
        rows: 0/1 [rows, n], which of the other side each row has; any rows, also unseen ones.
        other: fp32 [n, d].
        unobserved_weight: a0.
        regularisation: lambda.
        nu: exponent of the frequencies.
    """
    wide = other.astype(np.float64)
    shared = (unobserved_weight * (wide.T @ wide)).astype(np.float32)
    sizes = np.diff(rows.indptr)
    ridge = (regularisation * (sizes + unobserved_weight * len(other)) ** nu).astype(np.float32)
    solved = np.zeros((len(sizes), other.shape[1]), np.float32)
    indptr, indices = rows.indptr.astype(np.int64), rows.indices.astype(np.int64)
    _solve_rows(indptr, indices, np.ascontiguousarray(other), shared, ridge, solved)
    return solved


@njit(cache=True, nogil=True)
def _solve_rows(indptr: Any, indices: Any, other: Any, shared: Any, ridge: Any, solved: Any) -> None:
    size = other.shape[1]
    for row in range(solved.shape[0]):
        first, last = indptr[row], indptr[row + 1]
        if first == last:
            continue  # the best vector of nothing is zero
        own = np.empty((last - first, size), np.float32)
        for at in range(first, last):
            own[at - first] = other[indices[at]]
        system = np.dot(own.T, own)
        total = np.zeros(size, np.float32)
        for at in range(own.shape[0]):
            for c in range(size):
                total[c] += own[at, c]
        for a in range(size):
            for b in range(size):
                system[a, b] += shared[a, b]
            system[a, a] += ridge[row]
        solved[row] = np.linalg.solve(system, total)

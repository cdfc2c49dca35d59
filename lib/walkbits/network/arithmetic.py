"""The arithmetic of a layer on plain arrays: what the trainer's modules do, without torch.

A GEMM gives a row the same bits at any position of an equally tall block, not in a block
of another height. So linear maps run on blocks of one fixed height, and everything else
works on one row at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numba import njit

from walkbits.network.declaration import Activation, Dense, Linear, Pool, Update
from walkbits.network.prefetch import prefetch
from walkbits.types import F32, I32, I64, Bools

Weights = Mapping[str, F32]

_AHEAD: Final = 8
"""References between a row that is pooled and the one that memory is asked for."""
_LINE: Final = 16
"""fp32 values of a cache line."""


def linear(x: F32, layer: Linear | None, weights: Weights) -> F32:
    """`x W^T + b`, or x where there is no layer.

    Args:
        x: fp32 [rows, width].

    Returns:
        fp32 [rows, layer.size].
    """
    if layer is None:
        return x
    y = x @ weights[f"{layer.name}.weight"].T  # [rows, size]
    if layer.bias:
        y += weights[f"{layer.name}.bias"]
    return y


def activate(x: F32, activation: Activation) -> F32:
    """The activation of every coordinate of fp32 [rows, width]."""
    if activation == "relu":
        return np.maximum(x, np.float32(0))
    if activation == "tanh":
        return np.tanh(x)
    return x


def dense(x: F32, layer: Dense, weights: Weights) -> F32:
    """`activation(x W^T + b)`: fp32 [rows, width] -> fp32 [rows, size]."""
    return activate(linear(x, layer.linear, weights), layer.activation)


def combine(own: F32 | None, pooled: F32, sizes: I64, update: Update) -> tuple[F32, ...]:
    """What a target node holds and what it pooled, before the layer's linear map.

    Args:
        own: fp32 [rows, width]; `pooled` needs none.
        pooled: fp32 [rows, hidden].
        sizes: int64 [rows], |N(u)|.

    Returns:
        fp32 columns to be laid side by side: `concat` own and pooled, `average`
        (own + pooled) / (1 + |N(u)|), `add` own + pooled_weight * pooled, or pooled.
    """
    if update.combine == "pooled":
        return (pooled,)
    assert own is not None
    if update.combine == "concat":
        return own, pooled
    if update.combine == "add":
        return (own + np.float32(update.pooled_weight) * pooled,)
    return (np.asarray((own + pooled) / (1 + sizes).astype(np.float32)[:, None], dtype=np.float32),)


def normalise(x: F32) -> F32:
    """Each row divided by its L2 norm; a zero row stays zero. fp32 [rows, width]."""
    norm = np.sqrt(np.einsum("nd,nd->n", x, x))  # [rows]
    norm[norm == 0] = 1
    return np.asarray(x / norm[:, None], dtype=np.float32)


def supported(contexts: I64, support: float) -> F32:
    """What an item's cosine to others counts (`Score.support`): fp32 [items], n / (n + support).

    Args:
        contexts: int [items], n.
        support: kappa; 0 counts every item fully.
    """
    n = contexts.astype(np.float64)
    return (n / (n + support) if support else np.ones_like(n)).astype(np.float32)


def pool_weights(indptr: I64, visits: I32, pool: Pool) -> F32:
    """What each neighbor counts in its neighborhood.

    Args:
        indptr: int64 [rows + 1], from 0.
        visits: int32 [indptr[-1]], positive.

    Returns:
        fp32 [indptr[-1]]: `importance` visits / their sum, `mean` 1 / |N(u)|, otherwise 1.
    """
    if pool in ("max", "sum"):
        return np.ones(len(visits), np.float32)
    sizes = np.diff(indptr)  # [rows]
    if pool == "mean":
        return np.repeat(1 / np.maximum(sizes, 1), sizes).astype(np.float32)
    shares = np.empty(len(visits), np.float32)
    _shares(indptr, visits, shares)
    return shares


@njit(nogil=True, cache=True)
def _shares(indptr: Any, visits: Any, out: Any) -> None:
    for u in range(len(indptr) - 1):
        total = np.int64(0)
        for e in range(indptr[u], indptr[u + 1]):
            total += visits[e]
        for e in range(indptr[u], indptr[u + 1]):
            out[e] = np.float32(visits[e] / total)


def degree_weights(weights: F32, indptr: I64, references: F32, exponents: tuple[float, float]) -> F32:
    """Each weight divided by |N(u)|^a * (references of v)^b (LightGCN, He et al. 2020, equation 3).

    Args:
        weights: fp32 [indptr[-1]].
        indptr: int64 [rows + 1], from 0.
        references: fp32 [indptr[-1]], neighborhoods of the whole graph that hold v.
        exponents: (a, b).
    """
    sizes = np.diff(indptr)
    a, b = exponents
    per_target = np.repeat(np.maximum(sizes, 1).astype(np.float64) ** a, sizes)
    return np.asarray(weights / (per_target * references.astype(np.float64) ** b), dtype=np.float32)


def pool(matrix: F32, indptr: I64, rows: I32, weights: F32, how: Pool) -> F32:
    """Pool rows of a matrix over neighborhoods, each in the order its neighbors are listed.

    Args:
        matrix: fp32 [num_sources, hidden], often a mapped file.
        indptr: int64 [targets + 1], from 0.
        rows: int32 [indptr[-1]], rows of `matrix`; the caller has checked the range.
        weights: fp32 [indptr[-1]] from `pool_weights`.

    Returns:
        fp32 [targets, hidden]; zeros where a neighborhood is empty.
    """
    pooled = np.zeros((len(indptr) - 1, matrix.shape[1]), np.float32)
    if how == "max":
        _maximum(matrix, indptr, rows, pooled)
    else:
        _weighted_sum(matrix, indptr, rows, weights, pooled)
    return pooled


@njit(nogil=True, cache=True)
def _weighted_sum(matrix: Any, indptr: Any, rows: Any, weights: Any, out: Any) -> None:
    width, flat = matrix.shape[1], matrix.reshape(-1)
    for u in range(len(indptr) - 1):
        e, end = indptr[u], indptr[u + 1]
        # Four rows in one pass: their loads overlap, and the sum is stored once for all.
        while e + 4 <= end:
            for ahead in range(e + _AHEAD, min(e + _AHEAD + 4, len(rows))):
                begin = np.intp(rows[ahead]) * width
                for k in range(begin, begin + width, _LINE):
                    prefetch(flat, k)
            # unsigned: compiled code checks each signed index for a negative one
            a, b, c, d = (
                np.uint32(rows[e]),
                np.uint32(rows[e + 1]),
                np.uint32(rows[e + 2]),
                np.uint32(rows[e + 3]),
            )
            wa, wb, wc, wd = weights[e], weights[e + 1], weights[e + 2], weights[e + 3]
            for k in range(width):
                out[u, k] += wa * matrix[a, k] + wb * matrix[b, k] + wc * matrix[c, k] + wd * matrix[d, k]
            e += 4
        while e < end:
            for k in range(width):
                out[u, k] += weights[e] * matrix[rows[e], k]
            e += 1


@njit(nogil=True, cache=True)
def _maximum(matrix: Any, indptr: Any, rows: Any, out: Any) -> None:
    for u in range(len(indptr) - 1):
        for e in range(indptr[u], indptr[u + 1]):
            for k in range(matrix.shape[1]):
                if e == indptr[u] or matrix[rows[e], k] > out[u, k]:
                    out[u, k] = matrix[rows[e], k]


def scatter(
    pooled: F32, touched: Bools, vectors: F32, bounds: I64, targets: I32, weights: F32, how: Pool
) -> None:
    """Add source vectors to the targets that reference them: `pool`, by source.

    Args:
        pooled: fp32 [targets, hidden], changed in place.
        touched: bool [targets], whether a target has pooled a source; changed in place.
        vectors: fp32 [sources, hidden].
        bounds: int64 [sources + 1]; bounds[i] to bounds[i + 1] are the references to source i.
        targets: int32 [bounds[-1]], rows of `pooled`.
        weights: fp32 [bounds[-1]].
    """
    if how == "max":
        _scatter_maximum(vectors, bounds, targets, pooled, touched)
    else:
        _scatter_sum(vectors, bounds, targets, weights, pooled)


@njit(nogil=True, cache=True)
def _scatter_sum(vectors: Any, bounds: Any, targets: Any, weights: Any, out: Any) -> None:
    for i in range(len(vectors)):
        for e in range(bounds[i], bounds[i + 1]):
            u, w = targets[e], weights[e]
            for k in range(vectors.shape[1]):
                out[u, k] += w * vectors[i, k]


@njit(nogil=True, cache=True)
def _scatter_maximum(vectors: Any, bounds: Any, targets: Any, out: Any, touched: Any) -> None:
    for i in range(len(vectors)):
        for e in range(bounds[i], bounds[i + 1]):
            u = targets[e]
            for k in range(vectors.shape[1]):
                if not touched[u] or vectors[i, k] > out[u, k]:
                    out[u, k] = vectors[i, k]
            touched[u] = True

"""Exact top-k by inner product, the same to the last bit on any machine.

A float GEMM is fast, but its rounding depends on block shapes and libraries. So it only
proposes: a pair whose GEMM score comes within the proven rounding error of the k-th best is
scored again by the definition,

    score(q, x) = fp32( sum_{c = 0, 1, ...} q_c * x_c ),  summed in fp64 in that order,

and lists are ordered by (score descending, item ascending).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from walkbits.types import F32, I64

QUERY_BLOCK: Final = 256
ITEM_BLOCK: Final = 2048
"""Scores of a block pair are 2 MB: written by the GEMM and read once while still in cache."""

_CHUNK: Final = 128
"""Scores tested at once: few enough to be skipped often, enough to be tested by vector instructions."""

_UNIT_ROUNDOFF: Final = 2.0**-24


def nothing_excluded(num_queries: int) -> tuple[I64, I64]:
    """The empty exclusion lists of `top_k`."""
    return np.zeros(num_queries + 1, np.int64), np.empty(0, np.int64)


def top_k(queries: F32, items: F32, k: int, excluded: tuple[I64, I64]) -> tuple[I64, F32]:
    """The k items of largest inner product with each query.

    Args:
        queries: fp32 [q, d], finite.
        items: fp32 [n, d], finite; may be memory-mapped, it is read block by block.
        k: length of each list.
        excluded: items that must not appear: indptr [q + 1] and items ascending within a query.

    Returns:
        items int64 [q, k] and scores fp32 [q, k]; where fewer than k items remain the list
        ends in -1 and -inf.
    """
    found = np.full((len(queries), k), -1, np.int64)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    for start in range(0, len(queries), QUERY_BLOCK):
        rows = slice(start, start + QUERY_BLOCK)
        _scan(queries[rows], items, excluded[0][start:], excluded[1], found[rows], scores[rows])
    return found, scores


def _scan(queries: F32, items: F32, indptr: I64, excluded: I64, found: I64, scores: F32) -> None:
    """Fill `found` and `scores` of one block of queries in one pass over the items."""
    proposed = np.empty((len(queries), ITEM_BLOCK), np.float32)
    lengths = _lengths(queries)
    for first in range(0, len(items), ITEM_BLOCK):
        block = np.ascontiguousarray(items[first : first + ITEM_BLOCK])  # [<= ITEM_BLOCK, d]
        approx = proposed[:, : len(block)]
        np.matmul(queries, block.T, out=approx)
        # |fl(q.x) - q.x| <= gamma_d |q||x| in any order of summation (Higham, Accuracy and Stability
        # of Numerical Algorithms, section 3.1); the rest pays for rounding the bar and the lengths.
        slack = lengths * (_lengths(block).max() * np.float32((queries.shape[1] + 8) * _UNIT_ROUNDOFF * 1.01))
        _keep_best(approx, slack, queries, block, first, indptr, excluded, found, scores)


def _lengths(rows: F32) -> F32:
    """Euclidean lengths, never below 1e-19: a square that underflows must not shrink the slack."""
    squares = np.einsum("ij,ij->i", rows, rows) + np.finfo(np.float32).tiny
    return np.asarray(np.sqrt(squares))


def top_k_dense(scores: NDArray[np.float64], k: int, excluded: tuple[I64, I64]) -> I64:
    """Items int64 [q, k] by given scores fp64 [q, n]; order, exclusion and filling as in `top_k`."""
    found = np.full((len(scores), k), -1, np.int64)
    _keep_best_dense(scores, *excluded, found, np.full((len(scores), k), -np.inf))
    return found


@njit(cache=True)
def _keep_best(
    approx: Any, slack: Any, queries: Any, block: Any, first: Any,
    indptr: Any, excluded: Any, found: Any, scores: Any,
) -> None:  # fmt: skip
    """Merge one block of items into the best lists; items come in ascending order, so ties stay so."""
    last = scores.shape[1] - 1
    for query in range(approx.shape[0]):
        bar = scores[query, last] - slack[query]
        banned = excluded[indptr[query] : indptr[query + 1]]
        for start in range(0, approx.shape[1], _CHUNK):
            chunk = approx[query, start : start + _CHUNK]
            # Indexed, not iterated: only so does the compiler turn the test into vector instructions.
            passing = np.int32(0)
            for offset in range(chunk.shape[0]):
                passing += np.int32(chunk[offset] > bar)
            if passing == 0:
                continue
            for offset in range(chunk.shape[0]):
                if chunk[offset] > bar and not _holds(banned, first + start + offset):
                    exact = _dot(queries[query], block[start + offset])
                    if exact > scores[query, last]:
                        _insert(found[query], scores[query], first + start + offset, exact)
                        bar = scores[query, last] - slack[query]


@njit(cache=True)
def _keep_best_dense(values: Any, indptr: Any, excluded: Any, found: Any, scores: Any) -> None:
    last = scores.shape[1] - 1
    for query in range(values.shape[0]):
        banned = excluded[indptr[query] : indptr[query + 1]]
        for item in range(values.shape[1]):
            score = values[query, item]
            if score > scores[query, last] and not _holds(banned, item):
                _insert(found[query], scores[query], item, score)


@njit(cache=True)
def _dot(a: Any, b: Any) -> Any:
    total = 0.0
    for c in range(a.shape[0]):
        total += np.float64(a[c]) * np.float64(b[c])
    return np.float32(total)


@njit(cache=True)
def _holds(ascending: Any, item: Any) -> Any:
    at = np.searchsorted(ascending, item)
    return at < ascending.shape[0] and ascending[at] == item


@njit(cache=True)
def _insert(found: Any, scores: Any, item: Any, score: Any) -> None:
    """Put an item behind all of at least its score; the last one falls out."""
    at = scores.shape[0] - 1
    while at > 0 and scores[at - 1] < score:
        scores[at] = scores[at - 1]
        found[at] = found[at - 1]
        at -= 1
    scores[at] = score
    found[at] = item

"""Cells: items that are near each other, so that a query scores only those of the cells near it.

Centroids come from spherical k-means. Inner products are no distance: the longest item wins
them, however far it is. So items are lifted to a sphere,

    x -> (x, sqrt(L^2 - |x|^2)),   q -> (q, 0),   L the longest item's length,

which keeps every product with a query and makes the nearest item the one of the largest product
(Bachrach et al., RecSys 2014). Unit vectors stay what they are.

A batch has all queries at once: those that share their nearest cell are scored together, one
matrix product per (cell of queries, cell of items). What a product proposes is ranked by
exact scores (`index.exact`), so the lists are those of a scan over the same items.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numba import njit

from walkbits import rng
from walkbits.index.exact import (
    ITEM_BLOCK,
    QUERY_BLOCK,
    Items,
    lengths,
    new_best,
    nothing_excluded,
    offer,
    rank,
    rounding_error,
    top_k,
    unfilled,
)
from walkbits.types import F32, I32, I64

_SAMPLE_TAG: Final = int.from_bytes(b"sample", "big")
_ROUNDS: Final = 6
_PER_CELL: Final = 24
"""Sampled items per cell that k-means trains on."""


def num_cells(num_items: int) -> int:
    """4 sqrt(n): as many products with centroids as with the items of sixteen cells.

    Where items cluster, a cell should hold no more than a cluster: at half as many cells a query scores five
    times as many items for the same recall.
    """
    return max(1, min(num_items, round(4 * math.sqrt(num_items))))


def sampled(count: int, size: int, seed: int) -> I64:
    """A keyed sample of 0, ..., count - 1: int64 [min(count, size)], ascending."""
    if count <= size:
        return np.arange(count)
    draws = rng.draw(seed ^ _SAMPLE_TAG, np.arange(count))
    return np.sort(np.argpartition(draws, size)[:size])


def lifted(rows: F32, longest: float) -> F32:
    """Items on the sphere: fp32 [n, d + 1]."""
    squares = np.square(rows, dtype=np.float64).sum(axis=1)
    rest = np.sqrt(np.maximum(longest**2 - squares, 0.0))
    return np.column_stack([rows, rest.astype(np.float32)])


def train(items: F32, longest: float, seed: int) -> F32:
    """Centroids of spherical k-means on a keyed sample of the items.

    Sums run in fp64 in order of the items, and items go to the cell of the largest exact product, the
    first of equals: the same centroids on any machine. Cells with numbers near each other are near.

    Args:
        items: fp32 [n, d], may be memory-mapped.
        longest: length of the longest item.
        seed: of the sample and of the first centroids.

    Returns:
        fp32 [num_cells(n), d + 1], of length 1 or 0.
    """
    cells = num_cells(len(items))
    sample = lifted(np.ascontiguousarray(items[sampled(len(items), cells * _PER_CELL, seed)]), longest)
    centroids = _means(sample, cells, seed + 1)
    groups = _means(centroids, num_cells(cells), seed + 2)
    return centroids[np.argsort(_nearest(centroids, groups), kind="stable")]


def _means(points: F32, count: int, seed: int) -> F32:
    """Spherical k-means of points on the sphere: fp32 [count, d + 1]."""
    means = _directions(points[sampled(len(points), count, seed)].astype(np.float64))
    for _ in range(_ROUNDS):
        home = _nearest(points, means)
        order = np.argsort(home, kind="stable")
        held, starts = np.unique(home[order], return_index=True)
        sums = np.add.reduceat(points[order].astype(np.float64), starts, axis=0)
        means[held] = _directions(sums)
    return means


def _nearest(points: F32, means: F32) -> I64:
    return top_k(points, means, 1, nothing_excluded(len(points)))[0][:, 0]


def _directions(sums: Any) -> F32:
    norms = np.sqrt(np.square(sums).sum(axis=1, keepdims=True))
    return np.asarray(np.divide(sums, norms, out=np.zeros_like(sums), where=norms > 0), np.float32)


def nearest_cells(rows: F32, centroids: F32, count: int, longest: float | None) -> tuple[I32, F32]:
    """The cells nearest to items, or with `longest` None to queries.

    Returns:
        int32 [n, count] and the cosines with their centroids, fp32 [n, count], falling; `count` cells
        must exist.
    """
    rest = np.zeros((len(rows), 1), np.float32)
    points = np.hstack([rows, rest]) if longest is None else lifted(rows, longest)
    near, products = top_k(points, centroids, count, nothing_excluded(len(points)))
    return near.astype(np.int32), products / lengths(points)[:, None]


def gaps_of(cosines: F32, sizes: I64, k: int) -> F32:
    """How far each of a query's nearest cells is behind the nearest one, by cosine: fp32 [q, count].

    A search with gap g scores the cells whose gap is at most g. The nearest cells that it takes to hold
    more than k items have gap 0: a list that its cells do not fill would cost a scan.

    Args:
        cosines: fp32 [q, count] of `nearest_cells`.
        sizes: int64 [q, count], items of those cells.
        k: length of the lists.
    """
    before = np.cumsum(sizes, axis=1) - sizes
    return np.where(before <= k, np.float32(0), cosines[:, :1] - cosines)


def search(
    queries: F32, probed: I32, starts: I64, items: Items, longest: float, k: int, excluded: tuple[I64, I64]
) -> tuple[I64, F32]:
    """Top-k of queries that are near each other among the items of their cells.

    Args:
        queries: fp32 [q, d].
        probed: int32 [q, cells], the cells that each query scores, -1 for none.
        starts: int64 [cells + 1], where each cell's items begin in the layout.
        items: by cell.
        longest: length of the longest item.
        k: length of the lists.
        excluded: as for `exact.top_k`.

    Returns:
        As `exact.top_k`. A list that its cells do not fill is filled by a scan of all items.
    """
    found, scores = unfilled(len(queries), k)
    slack = rounding_error(queries, longest)
    _search(queries, probed, starts, items, slack, excluded, found, scores)
    short = np.flatnonzero(found[:, -1] < 0)
    if len(short):
        banned = [excluded[1][excluded[0][row] : excluded[0][row + 1]] for row in short]
        indptr = np.cumsum([0, *map(len, banned)], dtype=np.int64)
        again = _scan_by_id(queries[short], items, longest, k, (indptr, np.concatenate(banned)))
        found[short], scores[short] = again
    return found, scores


def _scan_by_id(
    queries: F32, items: Items, longest: float, k: int, excluded: tuple[I64, I64]
) -> tuple[I64, F32]:
    found, scores = unfilled(len(queries), k)
    everything = np.zeros((len(queries), 1), np.int32)
    starts = np.array([0, len(items.ids)])
    _search(queries, everything, starts, items, rounding_error(queries, longest), excluded, found, scores)
    return found, scores


@njit(cache=True)
def _search(
    queries: Any, probed: Any, starts: Any, items: Any, slack: Any, excluded: Any, found: Any, scores: Any
) -> None:
    """One product per cell with the queries that score it; the cell of most queries' choice comes first."""
    width = probed.shape[1]
    pairs = probed.ravel()
    order = np.argsort(pairs, kind="mergesort")
    first_of = np.searchsorted(pairs[order], np.arange(starts.shape[0]))
    shared = np.argsort(first_of[:-1] - first_of[1:], kind="mergesort")  # cells by queries, most first
    best = new_best(queries.shape[0], found.shape[1])
    few = min(queries.shape[0], QUERY_BLOCK)
    gathered = np.empty((few, queries.shape[1]), queries.dtype)
    buffer = np.empty(few * ITEM_BLOCK, np.float32)
    for cell in shared:
        asking = order[first_of[cell] : first_of[cell + 1]] // width
        if asking.shape[0] == 0:
            break
        for start in range(starts[cell], starts[cell + 1], ITEM_BLOCK):
            stop = min(starts[cell + 1], start + ITEM_BLOCK)
            # As many queries at once as leave their scores in the core's cache.
            for first in range(0, asking.shape[0], QUERY_BLOCK):
                rows = asking[first : first + QUERY_BLOCK]
                for r in range(rows.shape[0]):
                    gathered[r] = queries[rows[r]]
                some = gathered[: rows.shape[0]]
                offer(some, queries, rows, items, start, stop, slack, excluded, found.shape[1], best, buffer)
    rank(queries, items, slack, best, found, scores)

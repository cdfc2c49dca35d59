"""Exact top-k by inner product, the same to the last bit on any machine.

A float GEMM is fast, but its rounding depends on block shapes and libraries. So it only
proposes: what comes within the proven rounding error of the k-th best is scored again by the
definition,

    score(q, x) = fp32( sum_{c = 0, 1, ...} q_c * x_c ),  summed in fp64 in that order,

and lists are ordered by (score descending, item ascending). The kernels here take items in
any layout and any order, so a search that scores only some of them (index.cells) ranks those
as the scan of all would.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from walkbits.types import F32, I32, I64

QUERY_BLOCK: Final = 256
ITEM_BLOCK: Final = 2048
"""Scores of a block pair are 2 MB: written by the GEMM and read once while still in cache."""

_CHUNK: Final = 64
"""Scores tested at once: few enough to be skipped often, enough to be tested by vector instructions."""

_UNIT_ROUNDOFF: Final = 2.0**-24


class Best(NamedTuple):
    """What may still be among the k best of each query; grows to its width, then is cut back to about k.

    Attributes:
        places: int32 [q, width], positions in the items' layout.
        scores: fp32 [q, width], rounded by the GEMM.
        counts: int64 [q], how many of a row are filled.
        bars: fp32 [q], a score below which no item can be among the k best.
    """

    places: Any
    scores: Any
    counts: Any
    bars: Any


class Items(NamedTuple):
    """Items in the layout that they are scored in.

    Attributes:
        vectors: fp32 [n, d], contiguous; may be memory-mapped.
        ids: int64 [n], the item at each position.
    """

    vectors: Any
    ids: Any


def nothing_excluded(num_queries: int) -> tuple[I64, I64]:
    """The empty exclusion lists of `top_k`."""
    return np.zeros(num_queries + 1, np.int64), np.empty(0, np.int64)


def top_k(
    queries: F32,
    items: F32,
    k: int,
    excluded: tuple[I64, I64],
    longest: float | None = None,
    ids: I64 | None = None,
) -> tuple[I64, F32]:
    """The k items of largest inner product with each query.

    Args:
        queries: fp32 [q, d], finite.
        items: fp32 [n, d], finite; may be memory-mapped, it is read block by block.
        k: length of each list, at least 1.
        excluded: items that must not appear: indptr [q + 1] and items ascending within a query.
        longest: length of the longest item, where the caller knows it.
        ids: int64 [n], the item in each row; row i holds item i when left out.

    Returns:
        items int64 [q, k] and scores fp32 [q, k]; where fewer than k items remain the list
        ends in -1 and -inf.
    """
    found, scores = unfilled(len(queries), k)
    if not (len(queries) and len(items)):
        return found, scores
    layout = Items(np.ascontiguousarray(items), np.arange(len(items)) if ids is None else ids)
    longest = float(lengths(items).max()) if longest is None else longest
    for start in range(0, len(queries), QUERY_BLOCK):
        rows = slice(start, start + QUERY_BLOCK)
        block = np.ascontiguousarray(queries[rows])
        banned = (excluded[0][start : start + len(block) + 1], excluded[1])
        _scan(block, layout, rounding_error(block, longest), banned, found[rows], scores[rows])
    return found, scores


def top_k_spread(
    queries: F32, items: F32, groups: I32, at_most: int, k: int, excluded: tuple[I64, I64], longest: float
) -> tuple[I64, F32]:
    """The best k of each query with at most so many of a group: `top_k` of all items, going down.

    Lists of which no group holds too many are bases of a matroid, so one pass finds the best: an item that
    comes in sends out the worst of its group, where that is full, else the worst of all.

    Args:
        groups: int32 [n], the group of each item; -1 for none, which is not bounded.
        at_most: items of a group in a list, at least 1.
        queries, items, k, excluded, longest: as for `top_k`.
    """
    found, scores = unfilled(len(queries), k)
    layout = Items(np.ascontiguousarray(items), np.arange(len(items)))
    for start in range(0, len(queries), QUERY_BLOCK):
        rows = slice(start, start + QUERY_BLOCK)
        block = np.ascontiguousarray(queries[rows])
        banned = (excluded[0][start : start + len(block) + 1], excluded[1])
        slack = rounding_error(block, longest)
        _scan_spread(block, layout, groups, at_most, slack, banned, found[rows], scores[rows])
    return found, scores


def unfilled(num_queries: int, k: int) -> tuple[I64, F32]:
    """Lists that hold nothing yet."""
    return np.full((num_queries, k), -1, np.int64), np.full((num_queries, k), -np.inf, np.float32)


def rounding_error(queries: F32, longest: float) -> F32:
    """How far a GEMM's score of each query with any item may be from the exact one: fp32 [q].

    |fl(q.x) - q.x| <= gamma_d |q||x| in any order of summation (Higham, Accuracy and Stability of
    Numerical Algorithms, section 3.1); the rest pays for rounding the bar and the lengths.
    """
    share = (queries.shape[1] + 8) * _UNIT_ROUNDOFF * 1.01
    return lengths(queries) * np.float32(longest * share)


def lengths(rows: F32) -> F32:
    """Euclidean lengths, never below 1e-19: a square that underflows must not shrink the error's bound."""
    squares = np.einsum("ij,ij->i", rows, rows) + np.finfo(np.float32).tiny
    return np.asarray(np.sqrt(squares))


def top_k_dense(scores: NDArray[np.float64], k: int, excluded: tuple[I64, I64]) -> I64:
    """Items int64 [q, k] by given scores fp64 [q, n]; order, exclusion and filling as in `top_k`."""
    found = np.full((len(scores), k), -1, np.int64)
    _keep_best_dense(scores, *excluded, found, np.full((len(scores), k), -np.inf))
    return found


@njit(cache=True)
def _scan(queries: Any, items: Any, slack: Any, excluded: Any, found: Any, scores: Any) -> None:
    """All items against one block of queries."""
    rows = np.arange(queries.shape[0])
    best = new_best(queries.shape[0], found.shape[1])
    buffer = np.empty(queries.shape[0] * ITEM_BLOCK, np.float32)
    for start in range(0, items.vectors.shape[0], ITEM_BLOCK):
        stop = min(items.vectors.shape[0], start + ITEM_BLOCK)
        offer(queries, queries, rows, items, start, stop, slack, excluded, found.shape[1], best, buffer)
    rank(queries, items, slack, best, found, scores)


@njit(cache=True)
def _scan_spread(
    queries: Any, items: Any, groups: Any, at_most: int, slack: Any, excluded: Any, found: Any, scores: Any
) -> None:
    """Items in order of their numbers, so that of equal scores the one that is there stays."""
    k = found.shape[1]
    one, exact = np.empty(1, np.int32), np.empty(1, np.float32)
    buffer = np.empty(queries.shape[0] * ITEM_BLOCK, np.float32)
    for start in range(0, items.vectors.shape[0], ITEM_BLOCK):
        stop = min(items.vectors.shape[0], start + ITEM_BLOCK)
        approx = buffer[: queries.shape[0] * (stop - start)].reshape(queries.shape[0], stop - start)
        np.dot(queries, items.vectors[start:stop].T, approx)
        for row in range(queries.shape[0]):
            banned = excluded[1][excluded[0][row] : excluded[0][row + 1]]
            for offset in range(stop - start):
                if approx[row, offset] < scores[row, k - 1] - slack[row]:
                    continue
                place = start + offset
                if _holds(banned, place):
                    continue
                one[0] = place
                _dots(queries[row], items.vectors, one, exact)
                worst, same = k - 1, 0
                if groups[place] >= 0:
                    for at in range(k):
                        if found[row, at] >= 0 and groups[found[row, at]] == groups[place]:
                            same += 1
                            if same == at_most:
                                worst = at
                if exact[0] > scores[row, worst]:
                    for at in range(worst, k - 1):
                        found[row, at], scores[row, at] = found[row, at + 1], scores[row, at + 1]
                    found[row, k - 1], scores[row, k - 1] = -1, -np.inf
                    _insert(found[row], scores[row], place, exact[0])


@njit(cache=True)
def new_best(num_queries: int, k: int) -> Any:
    """Room for lists of k."""
    width = 2 * k + 4 * _CHUNK
    return Best(
        np.empty((num_queries, width), np.int32), np.empty((num_queries, width), np.float32),
        np.zeros(num_queries, np.int64), np.full(num_queries, -np.inf, np.float32),
    )  # fmt: skip


@njit(cache=True)
def offer(
    gathered: Any, queries: Any, rows: Any, items: Any, start: int, stop: int,
    slack: Any, excluded: Any, k: int, best: Any, buffer: Any,
) -> None:  # fmt: skip
    """Score a stretch of the items for some of the queries and keep what may be among their k best.

    Args:
        gathered: fp32 [r, d], `queries[rows]`.
        queries: fp32 [q, d].
        rows: int64 [r].
        items: an `Items`.
        start, stop: positions of the stretch.
        slack: fp32 [q], `rounding_error`.
        excluded: indptr [q + 1] and items ascending within a query.
        k: length of the lists.
        best: a `Best` of all queries.
        buffer: fp32, room for r * (stop - start) scores.
    """
    size = stop - start
    approx = buffer[: rows.shape[0] * size].reshape(rows.shape[0], size)
    np.dot(gathered, items.vectors[start:stop].T, approx)
    width = best.scores.shape[1]
    for r in range(rows.shape[0]):
        row = rows[r]
        bar, count = best.bars[row], best.counts[row]
        banned = excluded[1][excluded[0][row] : excluded[0][row + 1]]
        for first in range(0, size, _CHUNK):
            chunk = approx[r, first : first + _CHUNK]
            # Indexed, not iterated: only so does the compiler turn the test into vector instructions.
            passing = np.int32(0)
            for offset in range(chunk.shape[0]):
                passing += np.int32(chunk[offset] >= bar)
            if passing == 0:
                continue
            for offset in range(chunk.shape[0]):
                place = start + first + offset
                if chunk[offset] >= bar and not _holds(banned, items.ids[place]):
                    best.places[row, count] = place
                    best.scores[row, count] = chunk[offset]
                    count += 1
            # The first bar is worth raising soon.
            if count > width - _CHUNK or (bar == -np.inf and count >= k + _CHUNK):
                best.counts[row] = count
                _cut(row, queries[row], items, slack[row], k, best)
                bar, count = best.bars[row], best.counts[row]
        best.counts[row] = count


@njit(cache=True)
def rank(queries: Any, items: Any, slack: Any, best: Any, found: Any, scores: Any) -> None:
    """Fill `found` and `scores` [q, k] from what was kept, by exact scores."""
    k = found.shape[1]
    for row in range(found.shape[0]):
        _cut(row, queries[row], items, slack[row], k, best)
        order = _by_exact_score(row, queries[row], items, best)
        for i in range(min(k, order.shape[0])):
            found[row, i] = items.ids[best.places[row, order[i]]]
            scores[row, i] = best.scores[row, order[i]]


@njit(cache=True)
def _cut(row: int, query: Any, items: Any, slack: Any, k: int, best: Any) -> None:
    """Drop what cannot be among the k best: it scores two rounding errors below the k-th best so far."""
    count = best.counts[row]
    if count < k:
        return
    places, scores = best.places[row], best.scores[row]
    bar = np.partition(scores[:count], count - k)[count - k] - np.float32(2) * slack
    kept = 0
    for i in range(count):
        if scores[i] >= bar:
            places[kept], scores[kept] = places[i], scores[i]
            kept += 1
    best.counts[row], best.bars[row] = kept, bar
    if kept > scores.shape[0] - 2 * _CHUNK:
        # Many near ties: only exact scores separate them.
        first = _by_exact_score(row, query, items, best)[:k]
        places[:k], scores[:k] = places[first].copy(), scores[first].copy()
        best.counts[row] = k


@njit(cache=True)
def _by_exact_score(row: int, query: Any, items: Any, best: Any) -> Any:
    """Replace a row's scores by exact ones; its order by (score descending, item ascending)."""
    places, scores = best.places[row, : best.counts[row]], best.scores[row, : best.counts[row]]
    _dots(query, items.vectors, places, scores)
    # One sort of whole numbers: the score's bits, turned so that they fall as it rises, then the item.
    bits = (scores + np.float32(0)).view(np.uint32)  # a zero has one sign
    keys = np.empty(places.shape[0], np.uint64)
    for i in range(places.shape[0]):
        falling = bits[i] if bits[i] >> 31 else bits[i] ^ np.uint32(0x7FFFFFFF)
        keys[i] = (np.uint64(falling) << np.uint64(32)) | np.uint64(items.ids[places[i]])
    return np.argsort(keys)


@njit(cache=True)
def _dots(query: Any, vectors: Any, places: Any, scores: Any) -> None:
    """The definition; four items at a time, because each sum waits for its own last addition."""
    size, i = query.shape[0], 0
    while i + 4 <= places.shape[0]:
        a, b = vectors[places[i]], vectors[places[i + 1]]
        c, d = vectors[places[i + 2]], vectors[places[i + 3]]
        s, t, u, v = 0.0, 0.0, 0.0, 0.0
        for j in range(size):
            q = np.float64(query[j])
            s += q * np.float64(a[j])
            t += q * np.float64(b[j])
            u += q * np.float64(c[j])
            v += q * np.float64(d[j])
        scores[i], scores[i + 1], scores[i + 2], scores[i + 3] = s, t, u, v
        i += 4
    while i < places.shape[0]:
        total = 0.0
        for j in range(size):
            total += np.float64(query[j]) * np.float64(vectors[places[i], j])
        scores[i] = total
        i += 1


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

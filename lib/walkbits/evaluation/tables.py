"""Tables of item-to-item weights, sparse and dense, and how a history is ranked by one.

    score(query, i) = sum over the items j of the query's history, ascending, of W[j, i]

Sums run in fp64 in that order. An item that no row of the history names has no score and is never
ranked, so a list may end in -1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from scipy import linalg, sparse

from walkbits.errors import ConfigError
from walkbits.types import F32, F64, I64


def item_knn(train: sparse.csr_array, num_neighbors: int) -> sparse.csr_array:
    """Cosine similarity of items over contexts, each item's `num_neighbors` nearest.

        sim(i, j) = |contexts of i and j| / sqrt(|contexts of i| |contexts of j|),  i != j

    A list is that of the item that is scored: W[j, i] = sim(i, j) where j is among i's nearest.

    Args:
        train: 0/1 [contexts, items].
        num_neighbors: neighbors kept per item, ties by item.

    Returns:
        fp64 [items, items], W.
    """
    inverse = _power(_degrees(train, axis=0), -0.5)
    ones = np.ones(train.shape[0])
    return _cooccurrence(train, inverse, ones, inverse, num_neighbors).T.tocsr()


def rp3beta(train: sparse.csr_array, alpha: float, beta: float, num_neighbors: int) -> sparse.csr_array:
    """Random walks of three steps with a popularity penalty (Paudel et al., TiiS 2017).

        W[j, i] = sum over contexts u of j and i of (1/|j|)^alpha (1/|u|)^alpha / |i|^beta,  i != j

    Args:
        train: 0/1 [contexts, items].
        alpha: exponent of the transition probabilities. 0.5 to 1.
        beta: exponent of the penalty. 0.1 to 0.6.
        num_neighbors: weights kept per row, ties by item.

    Returns:
        fp64 [items, items], W.
    """
    items, contexts = _degrees(train, axis=0), _degrees(train, axis=1)
    return _cooccurrence(
        train, _power(items, -alpha), _power(contexts, -alpha), _power(items, -beta), num_neighbors
    )


def walk_table(
    train: sparse.csr_array, neighborhoods: tuple[I64, I64, I64], num_visits: int, alpha: float, beta: float
) -> sparse.csr_array:
    """RP3beta's table from visit counts of our own walks, item to item.

    A walk of one round with `context_weight_exponent` 1 - alpha goes from j to i with probability
    sum_u |u|^-alpha / sum_u |u|^(1 - alpha), u over the contexts of both and of j. Its share of visits,
    times that denominator, times |j|^-alpha |i|^-beta, estimates `rp3beta`.

    Args:
        train: 0/1 [contexts, items] that was walked.
        neighborhoods: indptr [items + 1], neighbors and visits, as `walks.kernel` gives them for all items.
        num_visits: visits that every item's walks made.
        alpha: 1 - the walks' context_weight_exponent.
        beta: exponent of the penalty.

    Returns:
        fp64 [items, items], W.
    """
    indptr, neighbors, visits = neighborhoods
    items, contexts = _degrees(train, axis=0), _degrees(train, axis=1)
    reached = np.asarray(train.T.astype(np.float64) @ _power(contexts, 1.0 - alpha))
    left = np.repeat(reached * _power(items, -alpha) / num_visits, np.diff(indptr))
    weight = left * visits * _power(items, -beta)[neighbors]
    return sparse.csr_array((weight, neighbors, indptr), shape=(len(items),) * 2)


def ease(train: sparse.csr_array, regularisation: float, max_items: int = 20_000) -> F32:
    """The closed-form linear item model without a diagonal (Steck, WWW 2019).

        P = (X^T X + regularisation I)^-1,   W[j, i] = -P[j, i] / P[i, i],   W[i, i] = 0

    Args:
        train: X, 0/1 [contexts, items].
        regularisation: lambda. 50 to 1,000.
        max_items: catalogue up to which the dense inverse is worth its items^2 * 4 bytes.

    Returns:
        fp32 [items, items], W.

    Raises:
        ConfigError: more items than `max_items`.
    """
    count = train.shape[1]
    if count > max_items:
        raise ConfigError(f"ease must have at most {max_items} items, got {count}; leave this ranker out")
    gram = (train.T @ train).toarray().astype(np.float32, order="F")
    gram[np.diag_indices(count)] += np.float32(regularisation)
    factor, failed = linalg.lapack.spotrf(gram, lower=1, overwrite_a=1)
    inverse, failed = linalg.lapack.spotri(factor, lower=1, overwrite_c=1) if not failed else (factor, failed)
    if failed:
        raise ConfigError(
            f"ease regularisation must make X^T X + lambda I invertible, got {regularisation}; raise it"
        )
    inverse = np.tril(inverse)
    diagonal = inverse.diagonal().copy()
    inverse = inverse + np.tril(inverse, -1).T
    inverse /= -diagonal[None, :]
    inverse[np.diag_indices(count)] = 0.0
    return np.ascontiguousarray(inverse, np.float32)


def rank(history: sparse.csr_array, table: sparse.csr_array, k: int) -> I64:
    """The k items of largest score for each history, itself left out: int64 [queries, k].

    Args:
        history: [queries, items], of which the indices count, ascending.
        table: W, fp64 [items, items].
        k: length of the lists, by score descending, then item; -1 where no item has a score.
    """
    found = np.full((history.shape[0], k), -1, np.int64)
    _rank(
        _long(history.indptr), _long(history.indices), _long(table.indptr), _long(table.indices),
        np.asarray(table.data, np.float64), table.shape[1], found,
    )  # fmt: skip
    return found


def _cooccurrence(
    train: sparse.csr_array, left: F64, middle: F64, right: F64, num_neighbors: int
) -> sparse.csr_array:
    """The `num_neighbors` largest of left[i] * (sum of middle over common contexts) * right[j] per row i."""
    by_item = train.T.tocsr()
    by_item.sort_indices()
    count = train.shape[1]
    found = np.full((count, num_neighbors), -1, np.int64)
    scores = np.zeros((count, num_neighbors))
    _count(
        _long(by_item.indptr), _long(by_item.indices), _long(train.indptr), _long(train.indices),
        left, middle, right, found, scores,
    )  # fmt: skip
    kept = found >= 0
    indptr = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
    return sparse.csr_array((scores[kept], found[kept], indptr), shape=(count, count))


def _degrees(train: sparse.csr_array, axis: int) -> F64:
    if axis == 1:
        return np.asarray(np.diff(train.indptr), np.float64)
    return np.bincount(train.indices, minlength=train.shape[1]).astype(np.float64)


def _power(degrees: F64, exponent: float) -> F64:
    """Degrees ** exponent, 1 for the degree 0."""
    powers: F64 = np.maximum(degrees, 1.0) ** exponent
    return powers


def _long(array: Any) -> I64:
    return np.asarray(array, np.int64)


@njit(cache=True, nogil=True)
def _rank(
    indptr: Any, history: Any, table_indptr: Any, table_items: Any, weights: Any, num_items: Any, found: Any
) -> None:
    total = np.zeros(num_items)
    state = np.zeros(num_items, np.int8)  # 1: has a score, 2: belongs to the history
    touched = np.empty(num_items, np.int64)
    scores = np.empty(found.shape[1])
    for query in range(found.shape[0]):
        count = 0
        own = history[indptr[query] : indptr[query + 1]]
        for j in own:
            state[j] = 2
        for j in own:
            for entry in range(table_indptr[j], table_indptr[j + 1]):
                i = table_items[entry]
                if state[i] == 0:
                    state[i] = 1
                    touched[count] = i
                    count += 1
                total[i] += weights[entry]
        _best(total, touched[:count], scores, found[query])
        for i in touched[:count]:
            total[i] = 0.0
            state[i] = 0
        for j in own:
            total[j] = 0.0
            state[j] = 0


@njit(cache=True, nogil=True)
def _count(
    item_indptr: Any, item_contexts: Any, indptr: Any, items: Any, left: Any, middle: Any, right: Any,
    found: Any, scores: Any,
) -> None:  # fmt: skip
    num_items = found.shape[0]
    total = np.zeros(num_items)
    touched = np.empty(num_items, np.int64)
    for i in range(num_items):
        count = 0
        for at in range(item_indptr[i], item_indptr[i + 1]):
            u = item_contexts[at]
            for entry in range(indptr[u], indptr[u + 1]):
                j = items[entry]
                if total[j] == 0.0:
                    touched[count] = j
                    count += 1
                total[j] += middle[u]
        kept = 0
        for at in range(count):
            j = touched[at]
            if j == i:
                total[j] = 0.0
            else:
                total[j] *= left[i] * right[j]
                touched[kept] = j
                kept += 1
        _best(total, touched[:kept], scores[i], found[i])
        for j in touched[:kept]:
            total[j] = 0.0


@njit(cache=True, nogil=True)
def _behind(score: Any, item: Any, other_score: Any, other: Any) -> Any:
    return score < other_score or (score == other_score and item > other)


@njit(cache=True, nogil=True)
def _best(total: Any, candidates: Any, scores: Any, found: Any) -> None:
    """Fill `found` with the best candidates by (score descending, item ascending); -1 behind them.

    A heap whose root is the worst item kept: most candidates cost one comparison.
    """
    size = 0
    for item in candidates:
        score = total[item]
        if size < found.shape[0]:
            at = size
            size += 1
            while at > 0:
                above = (at - 1) // 2
                if not _behind(score, item, scores[above], found[above]):
                    break
                scores[at], found[at] = scores[above], found[above]
                at = above
            scores[at], found[at] = score, item
        elif _behind(scores[0], found[0], score, item):
            _sink(scores, found, size, score, item)
    for last in range(size - 1, 0, -1):  # the worst of those left goes to the end
        score, item = scores[last], found[last]
        scores[last], found[last] = scores[0], found[0]
        _sink(scores, found, last, score, item)


@njit(cache=True, nogil=True)
def _sink(scores: Any, found: Any, size: Any, score: Any, item: Any) -> None:
    """Replace the root of a heap of `size` entries."""
    at = 0
    while True:
        below = 2 * at + 1
        if below >= size:
            break
        if below + 1 < size and _behind(scores[below + 1], found[below + 1], scores[below], found[below]):
            below += 1
        if not _behind(scores[below], found[below], score, item):
            break
        scores[at], found[at] = scores[below], found[below]
        at = below
    scores[at], found[at] = score, item

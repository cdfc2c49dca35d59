"""Visits of a block of nodes to their neighborhoods: counts, scores, the T highest.

Each function takes the sorted visits of some nodes and packs what it keeps of one after the
other, by score descending, then index ascending:

    top             count
    top_penalised   count / degree^beta, in fixed point (`penalties`), so that it orders alike everywhere
    top_boosted     (sum over the sources of the visits of sqrt(count))^2 / degree^beta: a node that
                    many sources lead to outranks one that a single source leads to often (Pixie)
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import numpy as np
from numba import njit

from walkbits.types import I64

_PENALTY_ONE: Final = 2.0**36


@lru_cache(maxsize=2)
def penalties(beta: float, most: int) -> I64:
    """round(2^36 / degree^beta) for the degrees 0..most: int64 [most + 1]; 2^36 for degree 0.

    Scores count * penalty stay below 2^63 for any count below 2^27.
    """
    degrees = np.maximum(np.arange(most + 1), 1).astype(np.float64)
    table = np.rint(_PENALTY_ONE * degrees**-beta).astype(np.int64)
    table.setflags(write=False)  # shared by all calls
    return table


@njit(cache=True, nogil=True)
def top(rows: Any, own: Any, num_neighbors: Any, neighbors: Any, visits: Any) -> Any:
    """Counts of sorted rows and their top, packed one row after the other.

    Args:
        rows: int32 [nodes, num_visits], each row ascending.
        own: int32 [nodes], the value of each row that is not counted.
        num_neighbors: T.
        neighbors: int32, receives the kept values.
        visits: int32, receives their counts.

    Returns:
        int64 [nodes], how many were kept per row.
    """
    num_rows, num_visits = rows.shape
    sizes = np.empty(num_rows, np.int64)
    ends = np.empty(num_visits, np.int32)
    repeated = np.empty(num_visits, np.int32)
    counts = np.empty(num_visits, np.int32)
    # histogram[c]: values with count c; later, where the next one of them goes
    histogram = np.zeros(num_visits + 1, np.int64)
    filled = 0
    for r in range(num_rows):
        row = rows[r]
        runs = np.int64(0)
        for j in range(1, num_visits):
            ends[runs] = j
            runs += np.int64(row[j] != row[j - 1])
        ends[runs] = num_visits
        runs += 1
        # Most values were visited once: only the others enter the histogram.
        many = np.int64(0)
        begin = np.int32(0)
        for i in range(runs):
            count = ends[i] - begin
            repeated[many] = begin
            counts[many] = count
            many += np.int64(count > 1)
            begin = ends[i]
        most = np.int64(1)
        for i in range(many):
            if row[repeated[i]] == own[r]:
                counts[i] = 0
            histogram[counts[i]] += 1
            most = max(most, np.int64(counts[i]))
        # Higher counts come first; the last count that fits may fit in part.
        size = 0
        least = most + 1
        while least > 2 and size < num_neighbors:
            least -= 1
            size, histogram[least] = size + histogram[least], size
        size = min(size, num_neighbors)
        for i in range(many):
            count = counts[i]
            if count >= least:
                place = histogram[count]
                if place < num_neighbors:
                    neighbors[filled + place] = row[repeated[i]]
                    visits[filled + place] = count
                    histogram[count] = place + 1
        histogram[: most + 1] = 0
        # Room that is left goes to values visited once.
        begin = np.int32(0)
        for i in range(runs):
            if size == num_neighbors:
                break
            if ends[i] - begin == 1 and row[begin] != own[r]:
                neighbors[filled + size] = row[begin]
                visits[filled + size] = 1
                size += 1
            begin = ends[i]
        sizes[r] = size
        filled += size
    return sizes


@njit(cache=True, nogil=True)
def top_penalised(
    rows: Any, own: Any, num_neighbors: Any, indptr: Any, penalty: Any, neighbors: Any, visits: Any
) -> Any:
    """As `top`, by count * penalty[degree of the value]; `indptr` gives the degrees."""
    num_rows, num_visits = rows.shape
    sizes = np.empty(num_rows, np.int64)
    values = np.empty(num_visits, np.int32)
    counts = np.empty(num_visits, np.int32)
    scores = np.empty(num_visits, np.int64)
    filled = 0
    for r in range(num_rows):
        row = rows[r]
        found = 0
        begin = 0
        for j in range(1, num_visits + 1):
            if j == num_visits or row[j] != row[begin]:
                if row[begin] != own[r]:
                    values[found] = row[begin]
                    counts[found] = j - begin
                    degree = indptr[row[begin] + 1] - indptr[row[begin]]
                    scores[found] = -(j - begin) * penalty[degree]
                    found += 1
                begin = j
        # Values ascend, and the sort is stable: ties come out by index.
        order = np.argsort(scores[:found], kind="mergesort")
        size = min(found, num_neighbors)
        for i in range(size):
            neighbors[filled + i] = values[order[i]]
            visits[filled + i] = counts[order[i]]
        sizes[r] = size
        filled += size
    return sizes


@njit(cache=True, nogil=True)
def top_boosted(rows: Any, num_neighbors: Any, indptr: Any, penalty: Any, neighbors: Any, visits: Any) -> Any:
    """As `top_penalised`, of rows int64 [nodes, num_visits] of value << 32 | source; negative is no visit.

    The square roots are summed by source ascending.
    """
    num_rows, num_visits = rows.shape
    sizes = np.empty(num_rows, np.int64)
    values = np.empty(num_visits, np.int32)
    counts = np.empty(num_visits, np.int32)
    scores = np.empty(num_visits, np.float64)
    filled = 0
    for r in range(num_rows):
        row = rows[r]
        found = 0
        j = 0
        while j < num_visits and row[j] < 0:
            j += 1
        while j < num_visits:
            value = row[j] >> 32
            begin = j
            roots = 0.0
            while j < num_visits and row[j] >> 32 == value:
                same = j
                while j < num_visits and row[j] == row[same]:
                    j += 1
                roots += np.sqrt(np.float64(j - same))
            values[found] = value
            counts[found] = j - begin
            scores[found] = -(roots * roots * np.float64(penalty[indptr[value + 1] - indptr[value]]))
            found += 1
        order = np.argsort(scores[:found], kind="mergesort")
        size = min(found, num_neighbors)
        for i in range(size):
            neighbors[filled + i] = values[order[i]]
            visits[filled + i] = counts[order[i]]
        sizes[r] = size
        filled += size
    return sizes


@njit(cache=True, nogil=True)
def often_visited(rows: Any, own: Any, least: Any) -> Any:
    """How many values but the own one a sorted row holds `least` times: int64 [nodes]."""
    num_rows, num_visits = rows.shape
    often = np.zeros(num_rows, np.int64)
    for r in range(num_rows):
        row = rows[r]
        begin = 0
        for j in range(1, num_visits + 1):
            if j == num_visits or row[j] != row[begin]:
                often[r] += j - begin >= least and row[begin] != own[r]
                begin = j
    return often

"""Importance neighborhoods without chance: a truncated push of the walk's distribution.

The mass of one walk starts at the node and moves along all edges at once, hop by hop, as the walks
of walks.kernel would on average (walks.exact has the formulas). After each of the 2 * walk_length
hops the smallest masses are dropped, as long as what is dropped stays within
push_epsilon / (2 * walk_length). Mass that is dropped would have made at most walk_length visits,
so the visits found fall short of the exact ones by at most push_epsilon of all visits, in sum.

Visits are counted in units of 2^-20, so that the table and its order are those of sampled walks.
Sums run by index ascending: the result depends on the graph and the node alone.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit

from walkbits import settings
from walkbits.graph.csr import Adjacency, BipartiteCsr
from walkbits.types import I32, I64, Relation, source_of, target_of
from walkbits.walks.counting import penalties

UNIT: Final = 2.0**20
"""One visit."""


def push_neighborhoods(
    csr: BipartiteCsr, relation: Relation, nodes: I32, walks: settings.Walks
) -> tuple[I64, I32, I32]:
    """As walks.neighborhoods_of, for `walks.method` push; visits in units of 2^-20."""
    out, home = csr.sides(relation)
    same_type = target_of(relation) == source_of(relation)
    source = out if same_type else home
    penalty = penalties(walks.popularity_penalty, source.max_degree)
    most = min(walks.num_neighbors, source.num_nodes)
    sizes = np.empty(len(nodes), np.int64)
    neighbors = np.empty((len(nodes), most), np.int32)
    visits = np.empty((len(nodes), most), np.int32)
    _push(
        _arrays(out), _arrays(home), csr.weighted, nodes, walks.walk_length, walks.restart_probability,
        walks.push_epsilon / (2 * walks.walk_length), same_type, source.indptr, penalty,
        sizes, neighbors, visits,
    )  # fmt: skip
    indptr = np.zeros(len(nodes) + 1, np.int64)
    np.cumsum(sizes, out=indptr[1:])
    kept = np.arange(most) < sizes[:, None]  # [nodes, most]
    return indptr, neighbors[kept], visits[kept]


def _arrays(side: Adjacency) -> tuple[I32 | I64, I32, I64]:
    return side.indptr, side.indices, side.cumulative


@njit(cache=True, nogil=True)
def _push(
    out: Any, home: Any, weighted: Any, nodes: Any, walk_length: Any, restart: Any, droppable: Any,
    same_type: Any, degrees: Any, penalty: Any, sizes: Any, neighbors: Any, visits: Any,
) -> None:  # fmt: skip
    num_targets, num_others = out[0].size - 1, home[0].size - 1
    at_target, at_other = np.zeros(num_targets), np.zeros(num_others)
    visited = np.zeros(num_targets if same_type else num_others)
    for i in range(nodes.size):
        start = nodes[i]
        seen = np.empty(0, np.int64)
        places, masses = np.array([np.int64(start)]), np.ones(1)
        if out[0][start + 1] == out[0][start]:
            masses = np.zeros(0)
            places = places[:0]
        for k in range(walk_length):
            places, masses = _hop(out, weighted, places, masses, at_other, droppable)
            if not same_type:
                seen = _visit(visited, seen, places, masses)
                if k + 1 == walk_length:
                    break
            places, masses = _hop(home, weighted, places, masses, at_target, droppable)
            if same_type:
                seen = _visit(visited, seen, places, masses)
            if restart > 0.0 and masses.size:
                back = restart * masses.sum()
                at_target[places] = masses * (1.0 - restart)
                if at_target[start] == 0.0:
                    places = np.sort(np.append(places, np.int64(start)))
                at_target[start] += back
                masses = at_target[places]
                at_target[places] = 0.0
        units = np.rint(visited[seen] * UNIT).astype(np.int64)
        visited[seen] = 0.0
        counted = units > 0
        if same_type:
            counted &= seen != start
        seen, units = seen[counted], units[counted]
        scores = np.empty(seen.size)
        for j in range(seen.size):
            scores[j] = -np.float64(units[j]) * np.float64(penalty[degrees[seen[j] + 1] - degrees[seen[j]]])
        order = np.argsort(scores, kind="mergesort")[: neighbors.shape[1]]
        sizes[i] = order.size
        for j in range(order.size):
            neighbors[i, j] = seen[order[j]]
            visits[i, j] = units[order[j]]


@njit(cache=True, nogil=True)
def _hop(side: Any, weighted: Any, places: Any, masses: Any, room: Any, droppable: Any) -> Any:
    """All mass one hop on, less the smallest masses; `room` is zeros before and after."""
    indptr, indices, cumulative = side
    degree = np.int64(0)
    for j in range(places.size):
        degree += np.int64(indptr[places[j] + 1] - indptr[places[j]])
    reached = np.empty(min(degree, room.size), np.int64)
    found = 0
    for j in range(places.size):
        low, high = np.int64(indptr[places[j]]), np.int64(indptr[places[j] + 1])
        total = np.float64(cumulative[high - 1]) if weighted else np.float64(high - low)
        before = np.int64(0)
        for entry in range(low, high):
            weight = 1.0
            if weighted:
                weight = np.float64(cumulative[entry] - before)
                before = cumulative[entry]
            n = indices[entry]
            if room[n] == 0.0:
                reached[found] = n
                found += 1
            room[n] += masses[j] * (weight / total)
    reached = np.sort(reached[:found])
    arrived = room[reached]
    room[reached] = 0.0
    order = np.argsort(arrived, kind="mergesort")
    dropped, first = 0.0, 0
    while first < order.size and dropped + arrived[order[first]] <= droppable:
        dropped += arrived[order[first]]
        first += 1
    kept = np.ones(found, np.bool_)
    kept[order[:first]] = False
    return reached[kept], arrived[kept]


@njit(cache=True, nogil=True)
def _visit(visited: Any, seen: Any, places: Any, masses: Any) -> Any:
    """Add to the visits; the nodes seen so far, ascending."""
    new = places[visited[places] == 0.0]
    visited[places] += masses
    return np.sort(np.concatenate((seen, new)))

"""Importance neighborhoods by random walks (PinSage, section 3.1), on a mapped graph.

The walk. A walk starts at a target node and makes `walk_length` rounds. A round starts at
a node of the target type: hop out to a random neighbor on the other side, hop home to a
random neighbor of that one. A visit is counted on arrival at a node of the source type:
after the hop home where source and target type are one (`item_from_item`), after the hop
out otherwise; so every walk makes `walk_length` visits. After a round, with
`restart_probability`, the walker goes back to its start; the next round begins there.
Arrivals at the start node itself use up their visit but are not counted. A walk from an
isolated node makes no visit.

The draws, for round k = 0, 1, ... of walk w from the node with key n (see walkbits.rng):
    hop out   draw(seed, n, w, 2k)          hop home   draw(seed, n, w, 2k + 1)
    restart   draw(seed, n, w, RESTART + k) < restart_probability * 2^64
so longer walks, and more of them, extend the same paths. Of a row with d equal edges, draw
u takes entry (u >> 32) * d >> 32; of a weighted row with total weight s, the first entry
whose cumulative weight exceeds u mod s.

The neighborhood of a node are its `num_neighbors` most visited nodes, by count descending,
then index ascending. With a popularity penalty beta the order is by count / degree^beta,
degree being the neighbor's number of edges. With the multi-source boost (Pixie), in relations
between two types, a visit belongs to the node that its walk first went to from the start, and the
order is by (sum over those sources of sqrt(count))^2; see walks.counting.

With an early stop (Pixie), after an eighth, a quarter and half of its walks a start makes no more of
them once `early_stop.nodes` nodes have `early_stop.visits` visits.

Plan: compiled hops in lockstep over some walkers, in short loops, so that their memory
reads overlap; numpy's SIMD sort of a block of rows, small enough for the core's cache; one
linear pass for counts and, by a histogram of counts, the top. Nothing is sorted twice.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit

from walkbits import settings
from walkbits.errors import InputError
from walkbits.graph.csr import Adjacency, BipartiteCsr
from walkbits.network.prefetch import prefetch
from walkbits.rng import start_key, step_draw, walker_key
from walkbits.types import I32, I64, Relation, source_of, target_of
from walkbits.walks.counting import often_visited, penalties, top, top_boosted, top_penalised
from walkbits.walks.push import push_neighborhoods

RESTART: Final = np.uint64(1 << 32)
"""First counter of the restart draws, beyond every hop's."""
_LANES: Final = 192
"""Walkers in lockstep: enough reads in flight, few enough to stay in the first cache."""
_BLOCK_VISITS: Final = 1 << 22
"""Most visits of a block, unless one node makes more: bounds memory when walks are many."""
_HALF: Final = np.uint64(32)
_TWO: Final = np.uint64(2)
_ONE: Final = np.uint64(1)


def neighborhoods_of(
    csr: BipartiteCsr, relation: Relation, nodes: I32, walks: settings.Walks, seed: int
) -> tuple[I64, I32, I32]:
    """The neighborhood of each of `nodes`; depends on nothing but graph, node, walks and seed.

    Args:
        csr: The graph; walked by weight when it is weighted.
        relation: Target and source type.
        nodes: int [n], indices of target nodes, in any order.
        walks: Number, length and restarts of the walks, T, the penalty, the block size (speed only); with
            method push the same neighborhoods without chance (walks.push), visits in units of 2^-20.
        seed: Seed of the run.

    Returns:
        indptr int64 [n + 1], neighbors int32, visits int32: the neighborhood of nodes[i] is
        neighbors[indptr[i]:indptr[i + 1]], by visits (over the penalty) descending, then
        index ascending; empty for an isolated node.

    Raises:
        InputError: a node is not an index of the target type.
    """
    out, home = csr.sides(relation)
    nodes = np.asarray(nodes, np.int32)
    if len(nodes) and (nodes.min() < 0 or nodes.max() >= out.num_nodes):
        raise InputError(
            f"nodes must be {target_of(relation)} indices in 0..{out.num_nodes - 1}, "
            f"got {nodes.min()}..{nodes.max()}"
        )
    if walks.method == "push":
        return push_neighborhoods(csr, relation, nodes, walks)
    same_type = target_of(relation) == source_of(relation)
    walked = np.flatnonzero(out.indptr[nodes + np.int64(1)] > out.indptr[nodes])
    num_visits = walks.num_walks * walks.walk_length
    block_size = max(1, min(walks.block_size, _BLOCK_VISITS // num_visits, len(walked)))
    source = out if same_type else home
    boosted = walks.multi_source_boost and not same_type
    # a table for beta = 0 is all ones
    penalised = bool(walks.popularity_penalty) or boosted
    penalty = penalties(walks.popularity_penalty, source.max_degree) if penalised else None

    visited = np.empty((block_size, num_visits), np.int32)
    sizes = np.zeros(len(nodes), np.int64)
    most = min(walks.num_neighbors, num_visits, source.num_nodes)
    neighbors = np.empty(len(walked) * most, np.int32)
    visits = np.empty(len(walked) * most, np.int32)
    filled = 0
    for low in range(0, len(walked), block_size):
        block = walked[low : low + block_size]
        starts = nodes[block]
        rows = visited[: len(block)]  # [nodes of the block, num_walks * walk_length]
        # No index is -1: of two types, no source node is the start.
        own = starts if same_type else np.full(len(block), -1, np.int32)
        _visit(csr, relation, starts, own, walks, seed, rows)
        room = neighbors[filled:], visits[filled:]
        if boosted:
            tagged = np.empty(rows.shape, np.int64)
            keys = out.keys[starts].view(np.uint64)
            _tag(rows, keys, np.uint64(seed), walks.walk_length, _restart_below(walks), tagged)
            tagged.sort(axis=1)
            size = top_boosted(tagged, walks.num_neighbors, source.indptr, penalty, *room)
        elif penalised:
            rows.sort(axis=1)
            size = top_penalised(rows, own, walks.num_neighbors, source.indptr, penalty, *room)
        else:
            rows.sort(axis=1)
            size = top(rows, own, walks.num_neighbors, *room)
        sizes[block] = size
        filled += int(size.sum())
    indptr = np.zeros(len(nodes) + 1, np.int64)
    np.cumsum(sizes, out=indptr[1:])
    return indptr, neighbors[:filled], visits[:filled]


def _visit(
    csr: BipartiteCsr, relation: Relation, starts: I32, own: I32, walks: settings.Walks, seed: int,
    rows: I32,
) -> None:  # fmt: skip
    """Fill rows [nodes, num_walks * walk_length] with visits; those that an early stop saves are `own`."""
    out, home = csr.sides(relation)
    same_type = target_of(relation) == source_of(relation)

    def walk(some: I64 | slice, first: int, visited: I32) -> None:
        _walk(
            _arrays(out), _arrays(home), csr.weighted, starts[some], out.keys[starts[some]].view(np.uint64),
            np.uint64(seed), walks.walk_length, _restart_below(walks), same_type, np.uint64(first), visited,
        )  # fmt: skip

    by_walk = rows.reshape(len(starts), walks.num_walks, walks.walk_length)
    if walks.early_stop is None:
        walk(slice(None), 0, by_walk)
        return
    going, first = np.arange(len(starts)), 0
    for upto in sorted({walks.num_walks // part for part in (8, 4, 2, 1)} - {0}):
        part = np.empty((len(going), upto - first, walks.walk_length), np.int32)
        walk(going, first, part)
        by_walk[going, first:upto] = part
        first = upto
        if upto == walks.num_walks or not len(going):
            break
        so_far = np.sort(by_walk[going, :upto].reshape(len(going), upto * walks.walk_length), axis=1)
        enough = often_visited(so_far, own[going], walks.early_stop.visits) >= walks.early_stop.nodes
        by_walk[going[enough], upto:] = own[going[enough], None, None]
        going = going[~enough]


def _restart_below(walks: settings.Walks) -> np.uint64:
    return np.uint64(int(walks.restart_probability * 2.0**64))


def _arrays(side: Adjacency) -> tuple[I32 | I64, I32, I64]:
    return side.indptr, side.indices, side.cumulative


@njit(cache=True, nogil=True)
def _walk(
    out: Any, home: Any, weighted: Any, starts: Any, keys: Any, seed: Any, walk_length: Any,
    restart_below: Any, same_type: Any, first_walk: Any, visited: Any,
) -> None:  # fmt: skip
    """Fill visited int32 [nodes, walks, walk_length] with where each walk, from first_walk on, arrives."""
    num_walks = visited.shape[1]
    flat = visited.reshape(starts.size * num_walks, walk_length)
    # Unsigned, because numba checks each signed index for a negative one.
    walkers = np.empty(_LANES, np.uint64)
    draws = np.empty(_LANES, np.uint64)
    entries = np.empty(_LANES, np.uint64)
    lasts = np.empty(_LANES, np.uint64)
    start = np.empty(_LANES, np.uint32)
    at = np.empty(_LANES, np.uint32)
    for first in range(0, flat.shape[0], _LANES):
        lanes = min(_LANES, flat.shape[0] - first)
        node, walk = first // num_walks, first % num_walks
        key = start_key(seed, keys[node])
        for i in range(lanes):
            if walk == num_walks:
                node, walk = node + 1, 0
                key = start_key(seed, keys[node])
            walkers[i] = walker_key(key, first_walk + np.uint64(walk))
            start[i] = at[i] = starts[node]
            walk += 1
        for k in range(walk_length):
            step = np.uint64(k) * _TWO
            hop(out, home, weighted, walkers, step, lanes, draws, entries, lasts, at)
            if not same_type:
                for i in range(lanes):
                    flat[first + i, k] = at[i]
                if k + 1 == walk_length:
                    break
            hop(home, out, weighted, walkers, step + _ONE, lanes, draws, entries, lasts, at)
            if same_type:
                for i in range(lanes):
                    flat[first + i, k] = at[i]
            if restart_below:
                for i in range(lanes):
                    if step_draw(walkers[i], RESTART + np.uint64(k)) < restart_below:
                        at[i] = start[i]


@njit(cache=True, nogil=True)
def hop(
    side: Any, next_side: Any, weighted: Any, walkers: Any, step: Any, lanes: Any, draws: Any,
    entries: Any, lasts: Any, at: Any,
) -> None:  # fmt: skip
    """Move every lane along one edge; each loop asks ahead for what the next one reads."""
    indptr, indices, cumulative = side
    next_indptr = next_side[0]
    for i in range(lanes):
        draws[i] = step_draw(walkers[i], step)
    if weighted:
        for i in range(lanes):
            lasts[i] = np.uint64(indptr[at[i] + _ONE]) - _ONE
            prefetch(cumulative, np.intp(lasts[i]))
        for i in range(lanes):
            low = np.uint64(indptr[at[i]])
            total = np.uint64(cumulative[lasts[i]])
            draws[i] %= total
            # About where the edge is if weights are alike; the search starts there.
            share = np.float64(draws[i]) / np.float64(total)
            entries[i] = min(low + np.uint64(share * np.float64(lasts[i] - low + _ONE)), lasts[i])
            prefetch(cumulative, np.intp(entries[i]))
        for i in range(lanes):
            low = np.uint64(indptr[at[i]])
            entries[i] = _search(cumulative, low, lasts[i], entries[i], np.int64(draws[i]))
            prefetch(indices, np.intp(entries[i]))
    else:
        for i in range(lanes):
            low = np.uint64(indptr[at[i]])
            degree = np.uint64(indptr[at[i] + _ONE]) - low
            entry = low + ((draws[i] >> _HALF) * degree >> _HALF)
            entries[i] = entry
            prefetch(indices, np.intp(entry))
    for i in range(lanes):
        arrived = np.uint32(indices[entries[i]])
        at[i] = arrived
        prefetch(next_indptr, np.intp(arrived))


@njit(cache=True, nogil=True)
def _search(cumulative: Any, low: Any, last: Any, guess: Any, target: Any) -> Any:
    """First entry of low..last whose cumulative weight exceeds target: away from the guess in
    doubling steps until it is enclosed, then by halves. All positions uint64.
    """
    step = _ONE
    if cumulative[guess] > target:
        high = guess
        while high >= low + step and cumulative[high - step] > target:
            high -= step
            step += step
        if high >= low + step:
            low = high - step + _ONE
    else:
        low = guess + _ONE
        while low + step <= last and cumulative[low + step - _ONE] <= target:
            low += step
            step += step
        high = min(last, low + step - _ONE)
    while low < high:
        middle = (low + high) >> _ONE
        if cumulative[middle] > target:
            high = middle
        else:
            low = middle + _ONE
    return low


@njit(cache=True, nogil=True)
def _tag(rows: Any, keys: Any, seed: Any, walk_length: Any, restart_below: Any, tagged: Any) -> None:
    """Tagged int64 [nodes, num_visits] = visit << 32 | first node visited since the walk left its start."""
    num_rows, num_visits = rows.shape
    for r in range(num_rows):
        key = start_key(seed, keys[r])
        first = np.int64(0)
        for j in range(num_visits):
            walk, k = j // walk_length, j % walk_length
            if k == 0:
                first = np.int64(rows[r, j])
            elif restart_below:
                walker = walker_key(key, np.uint64(walk))
                if step_draw(walker, RESTART + np.uint64(k - 1)) < restart_below:
                    first = np.int64(rows[r, j])
            visit = np.int64(rows[r, j])
            tagged[r, j] = (visit << 32) | first if visit >= 0 else np.int64(-1)

"""What the walks of walks.kernel would visit on average, exactly; and how near a sample is.

The expected visits of a walk from s are a personalised PageRank of s, truncated after
`walk_length` rounds (PinSage approximates it by counting). With x the distribution over
target nodes before a round, x = e_s at first:

    x P_out            over the other side after the hop out
    x P_out P_home     over the target side after the hop home
    x <- p e_s + (1 - p) x P_out P_home      with p = restart_probability

and the visits are the sum over rounds of the line that is of the source type.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from walkbits import config
from walkbits.graph.csr import Adjacency, BipartiteCsr, source_of, target_of
from walkbits.rng import draw
from walkbits.schemas import ITEM
from walkbits.walks.kernel import neighborhoods_of

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
F64 = NDArray[np.float64]

_SAMPLE: Final = 1 << 40
"""Walk number of the sampling draws, beyond every walk's."""
_TUNED_ON: Final = 64
"""Nodes that `reach_mass` looks at."""
_MOST_WALKS: Final = 10_000
"""More than these from every node would be a slow way to compute the exact answer."""
_COLUMNS: Final = 8
"""Start nodes solved together: their values for one node of the graph fill one cache line."""


def sample_nodes(csr: BipartiteCsr, relation: config.Relation, count: int, seed: int) -> Int32:
    """At most `count` target nodes that have edges, drawn by key, ascending.

    Returns:
        int32 [<= count].
    """
    side, _ = csr.sides(relation)
    connected = np.flatnonzero(np.diff(side.indptr))
    draws = draw(seed, side.keys[connected], _SAMPLE)
    chosen = connected[np.lexsort((connected, draws))[:count]]
    return np.sort(chosen).astype(np.int32)


def exact_ppr(csr: BipartiteCsr, relation: config.Relation, nodes: Int32, walks: config.Walks) -> F64:
    """Expected counted visits of one walk from each of `nodes`.

    Returns:
        float64 [len(nodes), source nodes]; a row sums to at most walk_length, zero for an
        isolated node and at the node itself when source and target type are one.
    """
    starts = np.asarray(nodes, np.int64)
    blocks = [
        _expected_visits(csr, relation, starts[low : low + _COLUMNS], walks)
        for low in range(0, len(starts), _COLUMNS)
    ]
    out, home = csr.sides(relation)
    num_sources = (out if target_of(relation) == source_of(relation) else home).num_nodes
    return np.concatenate(blocks) if blocks else np.empty((0, num_sources))


def fidelity(
    csr: BipartiteCsr,
    relation: config.Relation,
    nodes: Int32,
    indptr: Int64,
    neighbors: Int32,
    visits: Int32,
    walks: config.Walks,
) -> dict[str, float]:
    """Sampled neighborhoods against the exact ones of the same walk, mean over nodes.

    Args:
        csr: The graph that was walked.
        relation: Target and source type.
        nodes: int32 [n], target nodes; those without any possible visit are left out.
        indptr: int64 [n + 1], as `neighborhoods_of` returns for these nodes.
        neighbors: int32, likewise.
        visits: int32, likewise.
        walks: The walks that were made.

    Returns:
        overlap_at_t: share of the exact top T (by the same penalty) found; mass_at_t: exact visits of
        the nodes found over those of the exact top T; weight_error: half the L1 distance
        between the neighborhood's weights and the exact visits of its nodes, both with sum
        1; sampled_nodes: how many nodes the means are over. With no node: 1, 1, 0, 0.
    """
    return fidelities(csr, relation, nodes, [(indptr, neighbors, visits)], walks)[0]


def fidelities(
    csr: BipartiteCsr,
    relation: config.Relation,
    nodes: Int32,
    samples: Sequence[tuple[Int64, Int32, Int32]],
    walks: config.Walks,
) -> list[dict[str, float]]:
    """`fidelity` of several samples of the same nodes; the exact visits are computed once."""
    starts = np.asarray(nodes, np.int64)
    source = csr.item if source_of(relation) == ITEM else csr.context
    degrees = np.maximum(np.diff(source.indptr), 1).astype(np.float64)
    penalty = degrees**-walks.popularity_penalty  # [source nodes]
    rows: list[list[tuple[float, float, float]]] = [[] for _ in samples]  # overlap, mass, error per node
    for low in range(0, len(starts), _COLUMNS):
        exact = _expected_visits(csr, relation, starts[low : low + _COLUMNS], walks)
        for i, expected in enumerate(exact, start=low):
            top = _top(expected * penalty, walks.num_neighbors)
            if not len(top):
                continue
            for row, (indptr, neighbors, visits) in zip(rows, samples, strict=True):
                own = slice(indptr[i], indptr[i + 1])
                found, counts = neighbors[own], visits[own]
                overlap = len(np.intersect1d(found, top)) / len(top)
                mass = float(expected[found].sum() / expected[top].sum())
                error = float(np.abs(_normalised(counts) - _normalised(expected[found])).sum() / 2)
                row.append((overlap, mass, error))
    names = ("overlap_at_t", "mass_at_t", "weight_error")
    means = [np.mean(row, axis=0).tolist() if row else [1.0, 1.0, 0.0] for row in rows]
    return [
        dict(zip(names, mean, strict=True)) | {"sampled_nodes": float(len(row))}
        for mean, row in zip(means, rows, strict=True)
    ]


def reach_mass(csr: BipartiteCsr, relation: config.Relation, walks: config.Walks, seed: int) -> config.Walks:
    """The walks with the least of num_walks, twice, four times, ... that many that reach `target_mass`.

    Judged by mass_at_t on a keyed sample of nodes. Where even _MOST_WALKS do not reach it, those.
    """
    if walks.target_mass is None:
        return walks
    nodes = sample_nodes(csr, relation, _TUNED_ON, seed)
    counts = [walks.num_walks]
    while 2 * counts[-1] <= _MOST_WALKS:
        counts.append(2 * counts[-1])
    tried = [walks.model_copy(update={"num_walks": count}) for count in counts]
    samples = [neighborhoods_of(csr, relation, nodes, one, seed) for one in tried]
    for one, found in zip(tried, fidelities(csr, relation, nodes, samples, walks), strict=True):
        if found["mass_at_t"] >= walks.target_mass:
            return one
    return tried[-1]


def _top(expected: F64, count: int) -> Int64:
    """Indices of the `count` largest positive values, ties by index."""
    reachable = np.flatnonzero(expected)
    if len(reachable) > count:
        # Everything that ties with the last one may be in; the total order below decides.
        least = np.partition(expected[reachable], -count)[-count]
        reachable = reachable[expected[reachable] >= least]
    return reachable[np.lexsort((reachable, -expected[reachable]))[:count]]


def _normalised(values: NDArray[np.generic]) -> F64:
    total = values.sum()
    return values / total if total else values.astype(np.float64)


def _expected_visits(csr: BipartiteCsr, relation: config.Relation, nodes: Int64, walks: config.Walks) -> F64:
    """As exact_ppr, for at most _COLUMNS nodes."""
    same_type = target_of(relation) == source_of(relation)
    out, home = csr.sides(relation)
    columns = np.arange(len(nodes))
    at = np.zeros((out.num_nodes, _COLUMNS))  # [targets, columns]
    at[nodes, columns] = 1.0
    other = np.zeros((home.num_nodes, _COLUMNS))  # [others, columns]
    visits = np.zeros_like(at if same_type else other)
    from_target, from_other = (_inverse_sums(side, csr.weighted) for side in (out, home))
    for round_ in range(walks.walk_length):
        at *= from_target
        # What arrives at a node comes along its own row.
        _gather(home.indptr, home.indices, home.cumulative, csr.weighted, at, other)
        if not same_type:
            visits += other
            if round_ + 1 == walks.walk_length:
                break
        other *= from_other
        _gather(out.indptr, out.indices, out.cumulative, csr.weighted, other, at)
        if same_type:
            visits += at
        if walks.restart_probability:
            at *= 1.0 - walks.restart_probability
            at[nodes, columns] += walks.restart_probability * _walking(out, nodes)
    if same_type:
        visits[nodes, columns] = 0.0
    return np.ascontiguousarray(visits.T[: len(nodes)])


def _walking(out: Adjacency, nodes: Int64) -> F64:
    """1 for a node that has edges, 0 for one whose walks never begin."""
    return (out.indptr[nodes + 1] > out.indptr[nodes]).astype(np.float64)


def _inverse_sums(side: Adjacency, weighted: bool) -> F64:
    """1 / row sum of the weights as a column [nodes, 1], 0 for an empty row."""
    degrees = np.diff(side.indptr)
    sums = degrees.astype(np.float64)
    if weighted:
        sums[degrees > 0] = side.cumulative[side.indptr[1:][degrees > 0] - 1]
    return np.divide(1.0, sums, out=np.zeros_like(sums), where=sums > 0)[:, None]


@njit(cache=True, nogil=True)
def _gather(indptr: Any, indices: Any, cumulative: Any, weighted: Any, source: Any, sums: Any) -> None:
    """sums[r] = sum over row r of weight * source[neighbor]; source and sums [nodes, _COLUMNS]."""
    for row in range(indptr.size - 1):
        # Eight names: sums kept in names stay in registers, which halves the time.
        a = b = c = d = e = f = g = h = 0.0
        before = np.int64(0)
        for entry in range(np.uint64(indptr[row]), np.uint64(indptr[row + 1])):
            n = np.uint32(indices[entry])
            w = 1.0
            if weighted:
                w = np.float64(cumulative[entry] - before)
                before = cumulative[entry]
            a += w * source[n, 0]
            b += w * source[n, 1]
            c += w * source[n, 2]
            d += w * source[n, 3]
            e += w * source[n, 4]
            f += w * source[n, 5]
            g += w * source[n, 6]
            h += w * source[n, 7]
        sums[row, 0], sums[row, 1], sums[row, 2], sums[row, 3] = a, b, c, d
        sums[row, 4], sums[row, 5], sums[row, 6], sums[row, 7] = e, f, g, h

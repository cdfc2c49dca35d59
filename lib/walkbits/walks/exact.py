"""What the walks of walks.kernel would visit on average, exactly.

The expected visits of a walk from s are a personalised PageRank of s, truncated after
`walk_length` rounds (PinSage approximates it by counting). With x the distribution over
target nodes before a round, x = e_s at first:

    x P_out            over the other side after the hop out
    x P_out P_home     over the target side after the hop home
    x <- p e_s + (1 - p) x P_out P_home      with p = restart_probability

and the visits are the sum over rounds of the line that is of the source type.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit

from walkbits import settings
from walkbits.graph.csr import Adjacency, BipartiteCsr
from walkbits.types import F64, I32, I64, Relation, source_of, target_of

BLOCK: Final = 8
"""Start nodes solved together: their values for one node of the graph fill one cache line."""


def exact_ppr(csr: BipartiteCsr, relation: Relation, nodes: I32, walks: settings.Walks) -> F64:
    """Expected counted visits of one walk from each of `nodes`.

    Returns:
        float64 [len(nodes), source nodes]; a row sums to at most walk_length, zero for an
        isolated node and at the node itself when source and target type are one.
    """
    starts = np.asarray(nodes, np.int64)
    blocks = [
        expected_visits(csr, relation, starts[low : low + BLOCK], walks)
        for low in range(0, len(starts), BLOCK)
    ]
    out, home = csr.sides(relation)
    num_sources = (out if target_of(relation) == source_of(relation) else home).num_nodes
    return np.concatenate(blocks) if blocks else np.empty((0, num_sources))


def expected_visits(csr: BipartiteCsr, relation: Relation, nodes: I64, walks: settings.Walks) -> F64:
    """As exact_ppr, for at most BLOCK nodes."""
    same_type = target_of(relation) == source_of(relation)
    out, home = csr.sides(relation)
    columns = np.arange(len(nodes))
    at = np.zeros((out.num_nodes, BLOCK))  # [targets, columns]
    at[nodes, columns] = 1.0
    other = np.zeros((home.num_nodes, BLOCK))  # [others, columns]
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


def _walking(out: Adjacency, nodes: I64) -> F64:
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
    """sums[r] = sum over row r of weight * source[neighbor]; source and sums [nodes, BLOCK]."""
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

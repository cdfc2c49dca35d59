"""What the walks of graph.walks would visit on average, exactly; and how near a sample is.

The expected visits of a walk from s are a personalised PageRank of s, truncated after
`walk_length` rounds (PinSage approximates it by counting). With x the distribution over
target nodes before a round, x = e_s at first:

    x P_out            over the other side after the hop out
    x P_out P_home     over the target side after the hop home
    x <- p e_s + (1 - p) x P_out P_home      with p = restart_probability

and the visits are the sum over rounds of the line that is of the source type.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from walkbits import config
from walkbits.graph.csr import Adjacency, BipartiteCsr, source_of, target_of
from walkbits.rng import draw

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
F64 = NDArray[np.float64]

_SAMPLE: Final = 1 << 40
"""Walk number of the sampling draws, beyond every walk's."""
_COLUMNS: Final = 16
"""Start nodes solved together; bounds memory to a few dense vectors per node of the graph."""


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
    return _expected_visits(csr, relation, nodes.astype(np.int64), walks, _edge_weights(csr))


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
        overlap_at_t: share of the exact top T that was found; mass_at_t: exact visits of
        the nodes found over those of the exact top T; weight_error: half the L1 distance
        between the neighborhood's weights and the exact visits of its nodes, both with sum
        1; sampled_nodes: how many nodes the means are over. With no node: 1, 1, 0, 0.
    """
    starts = nodes.astype(np.int64)
    weights = _edge_weights(csr)
    overlap: list[float] = []
    mass: list[float] = []
    error: list[float] = []
    for low in range(0, len(starts), _COLUMNS):
        exact = _expected_visits(csr, relation, starts[low : low + _COLUMNS], walks, weights)
        for i, expected in enumerate(exact, start=low):
            top = _top(expected, walks.num_neighbors)
            if not len(top):
                continue
            own = slice(indptr[i], indptr[i + 1])
            found, counts = neighbors[own], visits[own]
            overlap.append(len(np.intersect1d(found, top)) / len(top))
            mass.append(float(expected[found].sum() / expected[top].sum()))
            error.append(float(np.abs(_normalised(counts) - _normalised(expected[found])).sum() / 2))
    if not overlap:
        return {"overlap_at_t": 1.0, "mass_at_t": 1.0, "weight_error": 0.0, "sampled_nodes": 0.0}
    return {
        "overlap_at_t": float(np.mean(overlap)),
        "mass_at_t": float(np.mean(mass)),
        "weight_error": float(np.mean(error)),
        "sampled_nodes": float(len(overlap)),
    }


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


def _expected_visits(
    csr: BipartiteCsr,
    relation: config.Relation,
    nodes: Int64,
    walks: config.Walks,
    weights: tuple[sparse.csr_matrix, sparse.csr_matrix],
) -> F64:
    """As exact_ppr; `weights` are items x contexts and contexts x items."""
    same_type = target_of(relation) == source_of(relation)
    home, out = weights if target_of(relation) == "item" else weights[::-1]
    # home [targets, others] times a column of others gives targets, and out the reverse
    columns = np.arange(len(nodes))
    start = np.zeros((home.shape[0], len(nodes)))  # [targets, columns]
    start[nodes, columns] = 1.0
    from_target, from_other = _inverse_sums(home), _inverse_sums(out)
    visits = np.zeros((home.shape[0] if same_type else out.shape[0], len(nodes)))
    at = start
    for round_ in range(walks.walk_length):
        other = out @ (at * from_target)  # [others, columns]
        if not same_type:
            visits += other
            if round_ + 1 == walks.walk_length:
                break
        at = home @ (other * from_other)
        if same_type:
            visits += at
        at = walks.restart_probability * start + (1.0 - walks.restart_probability) * at
    if same_type:
        visits[nodes, columns] = 0.0
    return visits.T


def _inverse_sums(weights: sparse.csr_matrix) -> F64:
    """1 / row sum as a column, 0 for an empty row."""
    sums = np.asarray(weights.sum(axis=1), np.float64).reshape(-1, 1)
    return np.divide(1.0, sums, out=np.zeros_like(sums), where=sums > 0)


def _edge_weights(csr: BipartiteCsr) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """(items x contexts, contexts x items), float64 weights of the edges."""

    def matrix(side: Adjacency, columns: int) -> sparse.csr_matrix:
        if csr.weighted:
            first = side.indptr[:-1][np.diff(side.indptr) > 0]
            weight = np.diff(side.cumulative, prepend=0)
            weight[first] = side.cumulative[first]
        else:
            weight = np.ones(len(side.indices))
        return sparse.csr_matrix(
            (weight.astype(np.float64), side.indices, side.indptr), shape=(side.num_nodes, columns)
        )

    return matrix(csr.item, csr.context.num_nodes), matrix(csr.context, csr.item.num_nodes)

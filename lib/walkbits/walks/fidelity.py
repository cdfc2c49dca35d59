"""How near sampled neighborhoods are to the exact ones (walks.exact)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from walkbits import settings
from walkbits.graph.csr import BipartiteCsr
from walkbits.rng import draw
from walkbits.schemas import ITEM
from walkbits.types import F64, I32, I64, Relation, source_of
from walkbits.walks.exact import BLOCK, expected_visits

_SAMPLE: Final = 1 << 40
"""Walk number of the sampling draws, beyond every walk's."""


def sample_nodes(csr: BipartiteCsr, relation: Relation, count: int, seed: int) -> I32:
    """At most `count` target nodes that have edges, drawn by key, ascending.

    Returns:
        int32 [<= count].
    """
    side, _ = csr.sides(relation)
    connected = np.flatnonzero(np.diff(side.indptr))
    draws = draw(seed, side.keys[connected], _SAMPLE)
    chosen = connected[np.lexsort((connected, draws))[:count]]
    return np.sort(chosen).astype(np.int32)


def fidelity(
    csr: BipartiteCsr,
    relation: Relation,
    nodes: I32,
    indptr: I64,
    neighbors: I32,
    visits: I32,
    walks: settings.Walks,
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
    relation: Relation,
    nodes: I32,
    samples: Sequence[tuple[I64, I32, I32]],
    walks: settings.Walks,
) -> list[dict[str, float]]:
    """`fidelity` of several samples of the same nodes; the exact visits are computed once."""
    starts = np.asarray(nodes, np.int64)
    source = csr.item if source_of(relation) == ITEM else csr.context
    degrees = np.maximum(np.diff(source.indptr), 1).astype(np.float64)
    penalty = degrees**-walks.popularity_penalty  # [source nodes]
    rows: list[list[tuple[float, float, float]]] = [[] for _ in samples]  # overlap, mass, error per node
    for low in range(0, len(starts), BLOCK):
        exact = expected_visits(csr, relation, starts[low : low + BLOCK], walks)
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


def _top(expected: F64, count: int) -> I64:
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

"""How many walks a target fidelity takes."""

from __future__ import annotations

from typing import Final

from walkbits import settings
from walkbits.graph.csr import BipartiteCsr
from walkbits.types import Relation
from walkbits.walks.fidelity import fidelities, sample_nodes
from walkbits.walks.kernel import neighborhoods_of

_TUNED_ON: Final = 64
"""Nodes that `reach_mass` looks at."""
_MOST_WALKS: Final = 10_000
"""More than these from every node would be a slow way to compute the exact answer."""


def reach_mass(csr: BipartiteCsr, relation: Relation, walks: settings.Walks, seed: int) -> settings.Walks:
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

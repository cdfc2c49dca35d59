"""A bipartite graph with power-law degrees on both sides, from keyed draws alone.

Every candidate edge e draws its two ends by rank: rank = n * u^(1 / (1 - s)), whose density
falls as rank^-s. Ranks are spread over the indices by a keyed order, so that degree and
index are unrelated, as with external ids. Repeated pairs are dropped and the first
`num_edges` distinct ones kept, so the same arguments give the same graph anywhere.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from walkbits.graph.csr import BipartiteCsr
from walkbits.rng import draw, uniform

ITEM_EXPONENT: Final = 0.6
CONTEXT_EXPONENT: Final = 0.5
_ITEM, _CONTEXT, _ITEM_ORDER, _CONTEXT_ORDER, _ITEM_KEY, _CONTEXT_KEY = range(6)
"""The step of each kind of draw."""

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]


def candidates(low: int, high: int, num_items: int, num_contexts: int, seed: int) -> tuple[Int64, Int64]:
    """Ranks (item, context) of the candidate edges low..high - 1; pairs may repeat."""
    edges = np.arange(low, high)
    return (
        _rank(draw(seed, edges, 0, _ITEM), num_items, ITEM_EXPONENT),
        _rank(draw(seed, edges, 0, _CONTEXT), num_contexts, CONTEXT_EXPONENT),
    )


def power_law_edges(num_items: int, num_contexts: int, num_edges: int, seed: int) -> tuple[Int32, Int32]:
    """`num_edges` distinct edges.

    Returns:
        item int32 [num_edges], context int32 [num_edges], in the order they were drawn.
    """
    pairs = np.empty(0, np.int64)
    drawn = 0
    while len(pairs) < num_edges:
        more = max(1 << 16, (num_edges - len(pairs)) * 9 // 8)
        item, context = candidates(drawn, drawn + more, num_items, num_contexts, seed)
        drawn += more
        pairs = np.concatenate([pairs, item * num_contexts + context])
        _, first = np.unique(pairs, return_index=True)
        pairs = pairs[np.sort(first)]
    item, context = np.divmod(pairs[:num_edges], num_contexts)
    return (
        _order(num_items, seed, _ITEM_ORDER)[item].astype(np.int32),
        _order(num_contexts, seed, _CONTEXT_ORDER)[context].astype(np.int32),
    )


def power_law_graph(
    num_items: int, num_contexts: int, num_edges: int, seed: int = 0, weighted: bool = False
) -> BipartiteCsr:
    """The graph of `power_law_edges`; weights, when asked for, are 1 to 8 in fixed point 2^20."""
    item, context = power_law_edges(num_items, num_contexts, num_edges, seed)
    weight = None
    if weighted:
        key = item.astype(np.int64) * num_contexts + context
        weight = ((draw(seed, key, 1) >> np.uint64(61)).astype(np.int64) + 1) << 20
    return BipartiteCsr.from_edges(
        item,
        context,
        weight,
        num_items,
        num_contexts,
        draw(seed, np.arange(num_items), 0, _ITEM_KEY).view(np.int64),
        draw(seed, np.arange(num_contexts), 0, _CONTEXT_KEY).view(np.int64),
    )


def _rank(draws: NDArray[np.uint64], count: int, exponent: float) -> Int64:
    return (count * uniform(draws) ** (1.0 / (1.0 - exponent))).astype(np.int64)


def _order(count: int, seed: int, step: int) -> Int64:
    """A keyed permutation of 0..count - 1."""
    return np.argsort(draw(seed, np.arange(count), 0, step), kind="stable")

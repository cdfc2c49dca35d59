"""Hard negatives: items that resemble a query of training without being related to it (PinSage, 3.3).

A query's items are ranked by the visits of many walks from it, count descending, then index
ascending: a personalised PageRank by counting. The first of them are its neighborhood; those of the
window `first_rank` to `last_rank` are near enough to be confused with it. Only items that the walks
visit have a rank, so a query whose walks visit fewer than `first_rank` items has no hard negatives,
and no near item ever fills the gap. Neither is an item that some training pair joins to the query.

Of a window a keyed sample is kept: the items with the lowest draw(seed, query's key, item's key).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from walkbits import rng, settings
from walkbits.graph.csr import BipartiteCsr
from walkbits.training.examples import below
from walkbits.types import I32, I64
from walkbits.walks.kernel import neighborhoods_of

_WINDOW_TAG: Final = int.from_bytes(b"window", "big")
_CHOICE_TAG: Final = int.from_bytes(b"hard", "big")


@dataclass(frozen=True)
class Partners:
    """Which items the training pairs join, either way round.

    Attributes:
        joined: int64, one item << 32 | other item; ascending, without repeats.
    """

    joined: I64

    @classmethod
    def of(cls, pairs: I32) -> Partners:
        """From pairs int32 [num_pairs, 2] in any order."""
        one, other = pairs.astype(np.int64).T  # [num_pairs], [num_pairs]
        return cls(np.unique(np.concatenate([one << 32 | other, other << 32 | one])))

    def among(self, query: int, items: I32) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Which of some items, int32 [n], a pair joins to the query: bool [n]."""
        low, high = np.searchsorted(self.joined, [query << 32, (query + 1) << 32])
        return np.isin(items, (self.joined[low:high] & 0xFFFFFFFF).astype(np.int32))


@dataclass(frozen=True)
class HardNegatives:
    """A sample of each query's window, from which the epochs choose.

    Attributes:
        queries: int32 [num_queries], ascending: all items that stand first in a pair.
        items: int32 [num_queries, per_query], in random order. A short list repeats; where there
            is none the row holds the query itself, which the loss leaves out as any collision.
    """

    queries: I32
    items: I32

    @property
    def coverage(self) -> float:
        """Share of the queries that have hard negatives."""
        return float((self.items[:, 0] != self.queries).mean())

    def choose(self, query: I32, number: I64, epoch: int, count: int, seed: int) -> I32:
        """`count` hard negatives of each query, keyed by the pair and the epoch.

        They follow each other in the query's row, so they differ as long as the row's items do.

        Args:
            query: int32 [pairs], all among `queries`.
            number: int64 [pairs], each pair's number in the list of all pairs.
            epoch: From 0.
            count: At most per_query.
            seed: Seed of the run.

        Returns:
            int32 [pairs, count].
        """
        row = np.searchsorted(self.queries, query)  # [pairs]
        width = self.items.shape[1]
        first = below(rng.draw(seed ^ _CHOICE_TAG, number, epoch), width)  # [pairs]
        slot = (first[:, None] + np.arange(count)) % width  # [pairs, count]
        return np.asarray(self.items[row[:, None], slot])


def hard_negatives_of(
    csr: BipartiteCsr, queries: I32, partners: Partners, walks: settings.Walks, hard: settings.HardNegatives,
    seed: int,
) -> I32:  # fmt: skip
    """The rows of `HardNegatives.items` for some queries; each depends on its own query alone.

    Args:
        csr: The graph that the neighborhoods come from.
        queries: int32 [n], in any order.
        partners: What may not be a query's negative.
        walks: Length and restarts of the walks, the block size; with the same seed the walks of the
            neighborhoods are the first of these.
        hard: Number of walks, window and sample size.
        seed: Seed of the run.

    Returns:
        int32 [n, per_query].

    Raises:
        InputError: a query is not an item of the graph.
    """
    longer = settings.Walks(
        num_walks=hard.num_walks,
        walk_length=walks.walk_length,
        restart_probability=walks.restart_probability,
        block_size=walks.block_size,
    ).model_copy(update={"num_neighbors": hard.last_rank})  # beyond the bound of a neighborhood's T
    indptr, ranked, _ = neighborhoods_of(csr, "item_from_item", queries, longer, seed)
    keys = csr.item.keys
    found = np.empty((len(queries), hard.per_query), np.int32)
    for row, (query, (low, high)) in enumerate(zip(queries.tolist(), pairwise(indptr.tolist()), strict=True)):
        window = ranked[min(low + hard.first_rank - 1, high) : high]
        window = window[~partners.among(query, window)]
        draws = rng.draw(seed ^ _WINDOW_TAG, keys[query], keys[window])
        sample = window[np.argsort(draws, kind="stable")[: hard.per_query]]
        found[row] = np.resize(sample if len(sample) else query, hard.per_query)
    return found

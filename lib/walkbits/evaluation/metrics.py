"""Metrics of rankings, of pairs, of embeddings and of codes, each defined once.

A ranking is an int64 array [queries, K] of items, best first, over the full catalogue, with the
query's training items masked, ties broken by item and -1 where no item is left. The relevant
items of each query are lists: indptr [queries + 1] and items. Queries without a relevant item
do not count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from walkbits import rng
from walkbits.errors import EmptyInputError
from walkbits.types import F32, F64, I64

_PAIRS: Final = int.from_bytes(b"pairs", "big")


@dataclass(frozen=True)
class Hits:
    """Which places of each ranking hold a relevant item; every ranking metric is a mean over it."""

    places: NDArray[np.bool_]
    """[queries, K]"""
    relevant: I64
    """Relevant items per query, all >= 1: [queries]"""

    @classmethod
    def of(cls, ranking: I64, indptr: I64, relevant: I64) -> Hits:
        """Look the ranking's items up in the relevant ones.

        Raises:
            EmptyInputError: no query has a relevant item.
        """
        sizes = np.diff(indptr)
        counted = sizes > 0
        if not counted.any():
            raise EmptyInputError("relevant items must not all be missing, got none; hold edges out first")
        # (query, item) as one number, so that membership is one sorted look-up.
        width = int(max(ranking.max(initial=0), relevant.max(initial=0))) + 1
        query = np.arange(len(ranking))
        wanted = np.repeat(query, sizes) * width + relevant
        places = np.isin(query[:, None] * width + ranking, wanted) & (ranking >= 0)
        return cls(places[counted], sizes[counted])

    def recall(self, k: int) -> float:
        """Mean of |relevant in the top k| / |relevant|. What HashGNN prints as HR."""
        return float((self.places[:, :k].sum(axis=1) / self.relevant).mean())

    def precision(self, k: int) -> float:
        """Mean of |relevant in the top k| / k."""
        return float(self.places[:, :k].sum(axis=1).mean() / k)

    def hit_rate(self, k: int) -> float:
        """Share of queries with at least one relevant item in the top k."""
        return float(self.places[:, :k].any(axis=1).mean())

    def mrr(self, k: int) -> float:
        """Mean of 1 / rank of the first relevant item, 0 when it is not in the top k."""
        top = self.places[:, :k]
        return float(np.where(top.any(axis=1), 1.0 / (top.argmax(axis=1) + 1), 0.0).mean())

    def ndcg(self, k: int) -> float:
        """Mean of DCG / ideal DCG: gains 0 or 1, discount 1 / log2(rank + 1), ideal list cut at k."""
        discount = 1.0 / np.log2(np.arange(2, k + 2))  # [k]
        top = self.places[:, :k]
        ideal = np.cumsum(discount)[np.minimum(self.relevant, k) - 1]
        return float(((top @ discount[: top.shape[1]]) / ideal).mean())


def pair_hit_rate(hits: Hits, k: int) -> float:
    """PinSage's hit-rate (section 4.1): share of pairs (query, relevant item) with it in the top k."""
    return float(hits.places[:, :k].sum() / hits.relevant.sum())


def scaled_mrr(hits: Hits, k: int, scale: int = 100) -> float:
    """PinSage's MRR (section 4.1): mean of 1 / ceil(rank / scale) over pairs, 0 beyond the top k."""
    worth = 1.0 / np.ceil(np.arange(1, k + 1) / scale)
    top = hits.places[:, :k]
    return float((top @ worth[: top.shape[1]]).sum() / hits.relevant.sum())


def coverage(ranking: I64, num_items: int) -> float:
    """Share of the catalogue that appears in at least one ranking."""
    return len(np.unique(ranking[ranking >= 0])) / num_items


def popularity_bias(ranking: I64, consumed: I64, popularity: I64) -> float:
    """Mean log(1 + popularity) of recommended items minus that of consumed items; 0 is neutral."""
    level = np.log1p(popularity)
    recommended = ranking[ranking >= 0]
    if not len(recommended):
        return 0.0
    return float(level[recommended].mean() - level[consumed].mean())


def excess_kurtosis(values: F64) -> float:
    """Excess kurtosis; of the cosines of random item pairs, a long tail separates items."""
    centred = values - values.mean()
    variance = np.mean(centred**2)
    return float(np.mean(centred**4) / variance**2 - 3.0) if variance > 0 else 0.0


def cosines(vectors: F32, left: I64, right: I64) -> F64:
    """Cosine of each pair of rows: fp64 [pairs]; 0 where a row is zero."""
    a, b = (vectors[rows].astype(np.float64) for rows in (left, right))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray(np.einsum("ij,ij->i", a, b) / np.where(lengths > 0, lengths, 1.0))


def random_pairs(num_items: int, pairs: int, seed: int) -> tuple[I64, I64]:
    """Keyed random pairs of different items: two int64 [pairs].

    Raises:
        EmptyInputError: there are fewer than two items.
    """
    if num_items < 2:
        raise EmptyInputError(f"random pairs must have at least 2 items, got {num_items}; add items")
    place = np.arange(pairs)
    left, step = (
        (rng.uniform(rng.draw(seed ^ _PAIRS, place, 0, which)) * count).astype(np.int64)
        for which, count in ((0, num_items), (1, num_items - 1))
    )
    return left, (left + 1 + step) % num_items


def neighbors_nearer(vectors: F32, indptr: I64, neighbors: I64, seed: int, pairs: int = 100_000) -> float:
    """Share of drawn (item, walk neighbor) pairs whose cosine exceeds that of the item and a random one.

    Ties count half, so a collapsed space gives 0.5 and a random one too.

    Args:
        vectors: fp32 [items, d].
        indptr: int64 [items + 1].
        neighbors: int64, items.
        seed: of the draws.
        pairs: how many are drawn.

    Raises:
        EmptyInputError: no item has a neighbor.
    """
    if not len(neighbors):
        raise EmptyInputError("the probe must have walk neighbors, got none; rebuild the neighborhoods")
    place = np.arange(pairs)
    at = (rng.uniform(rng.draw(seed ^ _PAIRS, place, 1, 0)) * len(neighbors)).astype(np.int64)
    item = np.searchsorted(indptr, at, side="right") - 1
    step = (rng.uniform(rng.draw(seed ^ _PAIRS, place, 1, 1)) * (len(vectors) - 1)).astype(np.int64)
    near = np.round(cosines(vectors, item, neighbors[at]), 6)
    far = np.round(cosines(vectors, item, (item + 1 + step) % len(vectors)), 6)
    return float(np.mean((near > far) + 0.5 * (near == far)))


def bit_balance(bits: NDArray[np.bool_]) -> F64:
    """Share of ones per bit, 0.5 is best: [code_bits] from [n, code_bits]."""
    return np.asarray(bits.mean(axis=0))


def bit_entropy(shares: F64) -> float:
    """Mean entropy of bits with these shares of ones, in bits; 1 is best, 0 where all are constant."""
    varying = shares[(shares > 0) & (shares < 1)]
    entropies = -varying * np.log2(varying) - (1 - varying) * np.log2(1 - varying)
    return float(entropies.sum() / len(shares))


def bit_correlation(bits: NDArray[np.bool_]) -> float:
    """Mean |correlation| over pairs of different bits that both vary; 0 is best."""
    varying = bits[:, bits.any(axis=0) & ~bits.all(axis=0)]
    size = varying.shape[1]
    if size < 2:
        return 0.0
    correlation = np.abs(np.corrcoef(varying, rowvar=False))
    return float((correlation.sum() - np.trace(correlation)) / (size * (size - 1)))


def gini(populations: I64, times: I64) -> float:
    """Gini coefficient of bucket populations: 0 when all are equal, towards 1 when one holds all.

    Args:
        populations: int64 [m], different.
        times: int64 [m], how many buckets have each population.
    """
    order = np.argsort(populations)
    value, count = populations[order].astype(np.float64), times[order].astype(np.float64)
    buckets, total = count.sum(), value @ count
    # The mean place of the buckets of one population, counted from 1 in ascending order.
    place = np.cumsum(count) - (count - 1) / 2
    return float(2 * ((place * count) @ value) / (buckets * total) - (buckets + 1) / buckets)

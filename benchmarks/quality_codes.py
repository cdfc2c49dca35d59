"""What codes keep of the float ranking of the same model, for every way to search them.

    float                the vectors themselves
    asymmetric_B         float query against codes of B bits, scale and prior
    hamming_B            Hamming distance of B sign bits
    hamming_prior_B      Hamming distance of B - 64 sign bits and the prior's 64 bits
    hamming500_float_B   the 500 nearest by the better of these distances, in the order of the float score

Codes are made as a day makes them. Bits beyond the vectors' size are planes in `asymmetric`, further
rotations in the others.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from walkbits.evaluation.metrics import Hits
from walkbits.evaluation.protocol import METRICS
from walkbits.evaluation.rankers import Codes, Embedding, Ranker, Reranked
from walkbits.evaluation.splits import Split
from walkbits.index.codes import WORD_BITS, Coder, prior_codes, rotation
from walkbits.settings import RankingMetric
from walkbits.types import I64

WIDTHS: Final = (64, 128, 256, 512)
SHOWN: Final = ("asymmetric", "hamming", "hamming_prior", "hamming500_float")
_METRICS: Final[tuple[RankingMetric, ...]] = ("recall", "ndcg", "hit_rate", "scaled_mrr")
_QUERIES: Final = 5_000
_K, _EXACT = 20, 50

_ABOUT: Final = """## Codes

What remains of the float vectors' Recall@20 / of their NDCG@20 / of their exact top 50, by way and bits.
`asymmetric`: float query against codes, with scale and prior. `hamming`: the distance of sign bits alone.
`hamming_prior`: of 64 bits fewer and of the prior's 64. `hamming500_float`: the nearest 500 by the latter (at
64 bits by the former) in the order of the float score. Of post-hoc codes, bits beyond the vectors' size are
planes in `asymmetric` and further rotations in the others. At most 5,000 drawn queries are ranked.
"""
_PAPERS: Final = """The papers: BiGeaR (Chen et al., KDD 2022) claims 95 to 102% of the float model's
Recall@20 at 768 bits, with scales and codes of each layer, after up to 1,000 epochs. HashGNN (Tan et al.,
WWW 2020) reports its guided estimator ahead of HashNet's, the plain straight-through one, Gumbel's, two
stages and LSH, with 32 bits.
"""

_PUBLISHED: Final = {
    "asymmetric_256_of_float": "asymmetric_256",
    "hamming_256_of_float": "hamming_256",
    "hamming_prior_256_of_float": "hamming_prior_256",
    "hamming500_float_of_float": "hamming500_float_256",
}
_COMPARED: Final = "hamming_prior_256"

Ways = dict[str, dict[str, float]]
"""Way -> metric -> value."""


def measured(split: Split, vectors: Embedding, seed: int, *, learned: bool) -> Ways:
    """Metrics at 20 of every way, and the share of the exact float top 50 that it finds.

    Args:
        split: At most 5,000 of its queries are ranked.
        vectors: Of items and contexts.
        seed: Of the rotation.
        learned: Whether the codes are the vectors' own signs.
    """
    some = split.sample(_QUERIES, seed) if len(split.queries) > _QUERIES else split
    exact = vectors.rank(some, _EXACT)
    found = {"float": _figures(some, exact, exact)}
    for way, ranker in _ways(vectors, seed, learned):
        found[way] = _figures(some, ranker.rank(some, _EXACT), exact)
    return found


def _ways(vectors: Embedding, seed: int, learned: bool) -> Iterator[tuple[str, Ranker]]:
    size = vectors.items.shape[1]
    for bits in WIDTHS:
        first = _hamming(vectors, bits, seed, learned)
        if first is None:
            continue
        coder = Coder(None) if learned else Coder(rotation(seed, size, min(bits, size)), planes=True)
        yield f"asymmetric_{bits}", Codes("codes", vectors, *coder.encode(vectors.items, bits), coder, True)
        yield f"hamming_{bits}", first
        if vectors.prior is not None and bits > WORD_BITS:
            with_prior = _hamming(vectors, bits - WORD_BITS, seed, learned)
            assert with_prior is not None
            ones = prior_codes(
                vectors.prior, float(vectors.prior.max()), with_prior.coder.worth(bits - WORD_BITS)
            )
            first = replace(with_prior, prior_code=ones)
            yield f"hamming_prior_{bits}", first
        yield f"hamming500_float_{bits}", Reranked("codes", first, vectors)


def _hamming(vectors: Embedding, bits: int, seed: int, learned: bool) -> Codes | None:
    """By distance; None where a model has not learned so many bits."""
    size = vectors.items.shape[1]
    if learned and bits > size:
        return None
    coder = Coder(None) if learned else Coder(rotation(seed, size, bits))
    return Codes("codes", vectors, *coder.encode(vectors.items, bits), coder, False)


def _figures(split: Split, ranking: I64, exact: I64) -> dict[str, float]:
    hits = Hits.of(ranking, *split.relevant)
    figures = {f"{one}_at_{_K}": METRICS[one](split, ranking, hits, _K) for one in _METRICS}
    same = [np.isin(one[one >= 0], other).mean() for one, other in zip(exact, ranking, strict=True)]
    return figures | {f"exact_{_EXACT}": float(np.mean(same))}


def of_float(ways: Ways, way: str, metric: str = f"recall_at_{_K}") -> float:
    """A way's share of the float figure."""
    return ways[way][metric] / ways["float"][metric]


def by_seed(row: Mapping[str, Any]) -> dict[str, Ways]:
    """What was measured of a contender's codes, by seed."""
    return {seed: one["codes"] for seed, one in row.get("by_seed", {}).items() if "codes" in one}


def figure(values: Sequence[float], data: str, **about: Any) -> dict[str, Any]:
    """One published figure: mean, seeds, spread."""
    spread = round(max(values) - min(values), 4)
    value = round(statistics.mean(values), 4)
    return {"value": value, "seeds": len(values), "spread": spread, "data": data, **about}


def summary(data: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Sections `codes` and `hashgnn` of the results, of the first data set that has their contenders.

    `codes` has the share of the float Recall@20 of the contender whose own Recall@20 is highest in that way.
    `hashgnn` has differences of Recall@20 by the Hamming distance
    of 256 bits, the prior's among them, seed by seed.

    Args:
        data: Rows by data set.
    """
    found: dict[str, dict[str, Any]] = {"codes": {}, "hashgnn": {}}
    for name in sorted(data, key=lambda one: (one != "gowalla", one)):
        coded = {contender: ways for contender, row in data[name].items() if (ways := by_seed(row))}
        found["codes"] = _shares(name, coded) | found["codes"]
        found["hashgnn"] = _gaps(name, coded) | found["hashgnn"]
    return found


def _shares(data: str, coded: Mapping[str, Mapping[str, Ways]]) -> dict[str, Any]:
    shares = {}
    for named, way in _PUBLISHED.items():
        recalls = {
            name: statistics.mean(one[way]["recall_at_20"] for one in seeds.values())
            for name, seeds in coded.items()
            if all(way in one for one in seeds.values())
        }
        if recalls:
            name = max(recalls, key=lambda one: recalls[one])
            values = [of_float(one, way) for one in coded[name].values()]
            shares[named] = figure(values, data, model=name, way=way)
    return shares


def _gaps(data: str, coded: Mapping[str, Mapping[str, Ways]]) -> dict[str, Any]:
    gaps, guided = {}, coded.get("hashgnn", {})
    for named, other in (("guided_minus_plain", "hashgnn_ste"), ("guided_minus_lsh", "item_pool_codes")):
        beside = coded.get(other, {})
        values = [
            guided[seed][_COMPARED]["recall_at_20"] - beside[seed][_COMPARED]["recall_at_20"]
            for seed in sorted(guided.keys() & beside.keys())
        ]
        if values:
            gaps[named] = figure(values, data)
    return gaps


def page(data: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """Section of the page: what each way keeps, by data set, contender and bits.

    Args:
        data: Rows by data set.
    """
    parts: list[str] = []
    for name, rows in data.items():
        coded = {contender: found for contender, row in rows.items() if (found := by_seed(row))}
        parts += [f"### {name}\n", *_table(coded), ""] if coded else []
    return [_ABOUT, *parts, _PAPERS] if parts else []


def _table(coded: Mapping[str, Mapping[str, Ways]]) -> list[str]:
    lines = [
        f"| contender | seeds | float Recall@20 | way | {' | '.join(f'{bits} bits' for bits in WIDTHS)} |",
        "|---" * (4 + len(WIDTHS)) + "|",
    ]
    for name, found in coded.items():
        plain = statistics.mean(ways["float"]["recall_at_20"] for ways in found.values())
        for way in SHOWN:
            cells = [_cell(found.values(), f"{way}_{bits}") for bits in WIDTHS]
            lines.append(f"| {name} | {len(found)} | {plain:.4f} | {way} | {' | '.join(cells)} |")
    return lines


def _cell(ways: Iterable[Ways], way: str) -> str:
    having = [one for one in ways if way in one]
    if not having:
        return "-"
    share, ndcg = (
        statistics.mean(of_float(one, way, metric) for one in having)
        for metric in ("recall_at_20", "ndcg_at_20")
    )
    exact = statistics.mean(one[way]["exact_50"] for one in having)
    return f"{share:.3f} / {ndcg:.3f} / {exact:.3f}"

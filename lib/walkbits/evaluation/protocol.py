"""The one way figures are made: rankers ranked over a split, metrics at several cut-offs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from walkbits.errors import ConfigError
from walkbits.evaluation import metrics
from walkbits.evaluation.metrics import Hits
from walkbits.evaluation.rankers import Ranker
from walkbits.evaluation.splits import Split
from walkbits.settings import RankingMetric
from walkbits.types import F32, I64


@dataclass(frozen=True)
class Figure:
    """One measured value; the columns of table `evaluation` without the run's own.

    Attributes:
        task: context_to_item or item_to_item; space for figures of the vectors alone.
        split: How edges were held out.
        model: The ranker.
        metric: One of `METRICS` or of `space`.
        k: Cut-off; 0 where there is none.
        value: The figure.
        queries: Queries, or pairs, behind it.
    """

    task: str
    split: str
    model: str
    metric: str
    k: int
    value: float
    queries: int


Metric = Callable[[Split, I64, Hits, int], float]

METRICS: Final[dict[RankingMetric, Metric]] = {
    "recall": lambda split, ranking, hits, k: hits.recall(k),
    "ndcg": lambda split, ranking, hits, k: hits.ndcg(k),
    "precision": lambda split, ranking, hits, k: hits.precision(k),
    "hit_rate": lambda split, ranking, hits, k: hits.hit_rate(k),
    "mrr": lambda split, ranking, hits, k: hits.mrr(k),
    "pair_hit_rate": lambda split, ranking, hits, k: metrics.pair_hit_rate(hits, k),
    "scaled_mrr": lambda split, ranking, hits, k: metrics.scaled_mrr(hits, k),
    "coverage": lambda split, ranking, hits, k: metrics.coverage(ranking[:, :k], split.num_items),
    "popularity_bias": lambda split, ranking, hits, k: metrics.popularity_bias(
        ranking[:, :k], split.masked[1], split.popularity
    ),
}
"""Each from (split, ranking [queries, >= k], its hits, k); definitions in `metrics`."""


def evaluate(
    split: Split,
    rankers: Iterable[Ranker],
    ks: Sequence[int] = (20,),
    metrics: Sequence[RankingMetric] = ("recall", "ndcg"),
) -> list[Figure]:
    """Every metric at every cut-off for every ranker, each of which ranks once.

    Raises:
        ConfigError: a metric is not one of `METRICS`, or a cut-off is below 1.
    """
    unknown = sorted(set(metrics) - set(METRICS))
    if unknown or not ks or min(ks) < 1:
        raise ConfigError(
            f"evaluation.metrics must be of {', '.join(METRICS)} and evaluation.ks at least 1, "
            f"got {', '.join(metrics)} at {', '.join(map(str, ks))}; correct them"
        )
    figures = []
    for ranker in rankers:
        ranking = ranker.rank(split, max(ks))
        hits = Hits.of(ranking, *split.relevant)
        figures += [
            Figure(
                split.task, split.name, ranker.name, metric, k,
                METRICS[metric](split, ranking, hits, k), len(split.queries),
            )
            for metric in metrics
            for k in ks
        ]  # fmt: skip
    return figures


def space(
    model: str, vectors: F32, seed: int, neighborhoods: tuple[I64, I64] | None = None, pairs: int = 100_000
) -> list[Figure]:
    """Figures of the item vectors alone, over keyed random pairs.

        mean_cosine         near 1 where the space has collapsed
        cosine_kurtosis     excess kurtosis: a long tail separates items (PinSage, section 4.2)
        neighbors_nearer    share of walk neighbors nearer than a random item; 0.5 is chance

    Args:
        model: What the figures call it.
        vectors: fp32 [items, d].
        seed: of the pairs.
        neighborhoods: indptr int64 [items + 1] and neighbors of the items' walks; None leaves the probe out.
        pairs: how many are drawn.
    """
    cosines = metrics.cosines(vectors, *metrics.random_pairs(len(vectors), pairs, seed))
    values = {
        "mean_cosine": float(cosines.mean()),
        "cosine_kurtosis": metrics.excess_kurtosis(cosines),
    }
    if neighborhoods is not None:
        values["neighbors_nearer"] = metrics.neighbors_nearer(vectors, *neighborhoods, seed, pairs)
    return [Figure("space", "all", model, metric, 0, value, pairs) for metric, value in values.items()]

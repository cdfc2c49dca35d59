"""Figures: each metric at each cut-off, once ranked; figures of the space."""

from __future__ import annotations

import numpy as np
import pytest
from walkbits.errors import ConfigError
from walkbits.evaluation.protocol import METRICS, evaluate, space
from walkbits.evaluation.splits import Edges, Split
from walkbits.settings import RankingMetric

SPLIT = Split.given(
    Edges(np.array([0, 0, 1, 2]), np.array([0, 1, 2, 0]), 3, 6),
    Edges(np.array([0, 1, 1]), np.array([3, 4, 5]), 3, 6),
)


class Fixed:
    """Ranks what it is told to, and counts how often it is asked."""

    name, asked = "fixed", 0

    def rank(self, split: Split, k: int) -> np.ndarray:
        self.asked += 1
        return np.array([[3, 2, -1], [0, 4, 3]])[:, :k]


def test_every_metric_at_every_cut_off_from_one_ranking() -> None:
    ranker = Fixed()
    figures = evaluate(SPLIT, [ranker], (1, 3), tuple(METRICS))
    assert ranker.asked == 1
    assert {(f.metric, f.k) for f in figures} == {(m, k) for m in METRICS for k in (1, 3)}
    assert {(f.task, f.split, f.model, f.queries) for f in figures} == {
        ("context_to_item", "given", "fixed", 2)
    }
    value = {(f.metric, f.k): f.value for f in figures}
    assert value["recall", 1] == 0.5
    assert value["recall", 3] == pytest.approx((1 + 1 / 2) / 2)
    assert value["hit_rate", 3] == 1.0
    assert value["mrr", 3] == pytest.approx((1 + 1 / 2) / 2)
    assert value["pair_hit_rate", 3] == pytest.approx(2 / 3)  # of three pairs
    assert value["scaled_mrr", 3] == pytest.approx(2 / 3)
    assert value["precision", 1] == 0.5
    assert value["coverage", 1] == pytest.approx(2 / 6)
    recommended = np.log1p([0, 1, 2, 0, 0]).mean()
    assert value["popularity_bias", 3] == pytest.approx(recommended - np.log1p([2, 1, 1]).mean())


def test_settings_and_metrics_name_the_same() -> None:
    assert set(RankingMetric.__args__) == set(METRICS)  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="got recal at 20"):
        evaluate(SPLIT, [Fixed()], (20,), ("recal",))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at least 1"):
        evaluate(SPLIT, [Fixed()], (0,))


def test_space_tells_a_collapsed_space_from_a_spread_one() -> None:
    random = np.random.default_rng(0)
    centres = random.standard_normal((10, 32))
    apart = (centres[np.arange(200) % 10] + 0.3 * random.standard_normal((200, 32))).astype(np.float32)
    indptr = np.arange(0, 801, 4)
    neighbors = (np.repeat(np.arange(200), 4) + np.tile([10, 20, 30, 40], 200)) % 200
    spread = {f.metric: f.value for f in space("m", apart, 1, (indptr, neighbors))}
    assert abs(spread["mean_cosine"]) < 0.2
    assert spread["neighbors_nearer"] > 0.9
    collapsed = {f.metric: f.value for f in space("m", np.ones((200, 4), np.float32), 1, (indptr, neighbors))}
    assert collapsed == pytest.approx({"mean_cosine": 1.0, "cosine_kurtosis": 0.0, "neighbors_nearer": 0.5})
    assert len(space("m", apart, 1)) == 2

"""Each metric on a case worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from walkbits.errors import EmptyInputError
from walkbits.evaluation import metrics
from walkbits.evaluation.metrics import Hits

# Three queries; the second has no relevant item and does not count.
RANKING = np.array([[4, 2, 9], [1, 2, 3], [0, 7, -1]])
INDPTR = np.array([0, 2, 2, 3])
RELEVANT = np.array([2, 5, 0])


@pytest.fixture
def hits() -> Hits:
    return Hits.of(RANKING, INDPTR, RELEVANT)


def test_recall_and_precision(hits: Hits) -> None:
    assert hits.recall(1) == pytest.approx((0 + 1) / 2)
    assert hits.recall(3) == pytest.approx((1 / 2 + 1) / 2)
    assert hits.precision(3) == pytest.approx((1 / 3 + 1 / 3) / 2)


def test_hit_rate_and_mrr(hits: Hits) -> None:
    assert hits.hit_rate(1) == 0.5
    assert hits.hit_rate(3) == 1.0
    assert hits.mrr(3) == pytest.approx((1 / 2 + 1) / 2)
    assert hits.mrr(1) == 0.5


def test_ndcg_cuts_the_ideal_list_at_k(hits: Hits) -> None:
    second = 1 / math.log2(3)
    assert hits.ndcg(3) == pytest.approx((second / (1 + second) + 1) / 2)
    assert hits.ndcg(1) == pytest.approx((0 + 1) / 2)


def test_ndcg_of_more_relevant_items_than_places_can_reach_one() -> None:
    everything = Hits.of(np.array([[0, 1]]), np.array([0, 3]), np.array([0, 1, 2]))
    assert everything.ndcg(2) == pytest.approx(1.0)
    assert everything.recall(2) == pytest.approx(2 / 3)


def test_empty_places_are_never_hits() -> None:
    assert Hits.of(np.array([[-1, -1]]), np.array([0, 1]), np.array([3])).recall(2) == 0.0


def test_queries_do_not_see_each_others_relevant_items() -> None:
    assert Hits.of(np.array([[5], [9]]), np.array([0, 1, 2]), np.array([9, 5])).recall(1) == 0.0


def test_no_relevant_items_is_an_error() -> None:
    with pytest.raises(EmptyInputError, match="relevant"):
        Hits.of(RANKING, np.zeros(4, np.int64), np.empty(0, np.int64))


def test_coverage_and_popularity_bias() -> None:
    assert metrics.coverage(RANKING, 10) == pytest.approx(7 / 10)
    popularity = np.array([7, 0, 0])
    bias = metrics.popularity_bias(np.array([[0, 1], [0, -1]]), np.array([0, 2]), popularity)
    assert bias == pytest.approx(math.log(8) * (2 / 3 - 1 / 2))


def test_pair_metrics_of_pinsage() -> None:
    # Ranks 1, 100, 101 and, of the fourth query's two items, 900 and none.
    ranking = np.full((4, 1000), -1)
    for row, rank in enumerate((1, 100, 101, 900)):
        ranking[row, rank - 1] = row
    pairs = Hits.of(ranking, np.array([0, 1, 2, 3, 5]), np.array([0, 1, 2, 3, 9]))
    assert metrics.pair_hit_rate(pairs, 100) == pytest.approx(2 / 5)
    assert metrics.scaled_mrr(pairs, 1000) == pytest.approx((1 + 1 + 1 / 2 + 1 / 9 + 0) / 5)
    assert metrics.scaled_mrr(pairs, 100) == pytest.approx(2 / 5)


def test_random_pairs_are_of_different_items_and_all_of_them() -> None:
    left, right = metrics.random_pairs(5, 10_000, 1)
    assert (left != right).all()
    counts = np.bincount(left * 5 + right, minlength=25).reshape(5, 5)
    assert counts[~np.eye(5, dtype=bool)].min() > 400  # 500 each


def test_cosines_of_rows() -> None:
    x = np.array([[3, 4], [0, 0], [4, 3], [-6, -8]], np.float32)
    assert metrics.cosines(x, np.array([0, 0, 0]), np.array([1, 2, 3])) == pytest.approx([0, 24 / 25, -1])


def test_kurtosis_is_zero_for_a_normal_and_large_for_a_long_tail() -> None:
    normal = np.random.default_rng(0).standard_normal(200_000)
    assert abs(metrics.excess_kurtosis(normal)) < 0.05
    assert metrics.excess_kurtosis(np.array([-1.0, 1.0] * 50)) == pytest.approx(-2.0)


def test_bit_balance_and_correlation() -> None:
    bits = np.array([[0, 0, 1, 1], [0, 1, 1, 0], [1, 0, 1, 1], [1, 1, 1, 0]], np.bool_)
    assert metrics.bit_balance(bits).tolist() == [0.5, 0.5, 1.0, 0.5]
    # Of the three bits that vary one pair is opposite and two pairs are independent.
    assert metrics.bit_correlation(bits) == pytest.approx(1 / 3)
    assert metrics.bit_correlation(np.ones((4, 3), np.bool_)) == 0.0


def test_entropy_of_bits() -> None:
    quarter = -(0.25 * np.log2(0.25) + 0.75 * np.log2(0.75))
    assert metrics.bit_entropy(np.array([0.5, 0.25, 0.0, 1.0])) == pytest.approx((1 + quarter) / 4)
    assert metrics.bit_entropy(np.ones(3)) == 0


def test_gini() -> None:
    assert metrics.gini(np.array([5]), np.array([3])) == pytest.approx(0.0)
    populations, times = np.array([7, 1, 2, 4]), np.array([1, 2, 3, 1])
    each = np.repeat(populations, times)
    pairs = np.abs(each[:, None] - each).sum()
    assert metrics.gini(populations, times) == pytest.approx(pairs / (2 * 7 * each.sum()))

"""Positive pairs: from sampled contexts, distinct, keyed, whatever the partitioning."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from walkbits.arrays.mapped import open_array
from walkbits.arrays.places import place_of
from walkbits.graph.csr import BipartiteCsr
from walkbits.settings import Training
from walkbits.training.arrays import write_pairs
from walkbits.training.examples import pairs_in, training_pairs


def edges_of(spark: SparkSession, contexts: dict[int, list[int]], shuffled: bool = False) -> DataFrame:
    rows = [(item, context) for context, items in contexts.items() for item in items]
    if shuffled:
        rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    return spark.createDataFrame(rows, "item int, context int")


def pairs_of(frame: DataFrame) -> list[tuple[int, int]]:
    return [(row.query, row.positive) for row in frame.collect()]


@pytest.fixture(scope="module")
def contexts() -> dict[int, list[int]]:
    rng = np.random.default_rng(5)
    return {c: sorted(rng.choice(500, rng.integers(1, 15), replace=False).tolist()) for c in range(300)}


def test_pairs_share_a_context_and_are_distinct(spark: SparkSession) -> None:
    # Items of context c are 100 c, 100 c + 1, ...: a pair names its context.
    contexts = {c: [100 * c + i for i in range(size)] for c, size in enumerate([1, 2, 3, 5, 40])}
    training = Training(context_fraction=1.0, pairs_per_context=10)
    pairs = pairs_of(training_pairs(edges_of(spark, contexts), training, 7))
    assert all(q != p and q // 100 == p // 100 and q in contexts[q // 100] for q, p in pairs)
    assert len({frozenset(pair) for pair in pairs}) == len(pairs)
    count = Counter(q // 100 for q, _ in pairs)
    assert count[0] == 0
    assert count[1] == 1
    assert 2 <= count[2] <= 3
    assert 5 <= count[3] <= 10
    assert count[4] == 10
    assert [q // 100 for q, _ in pairs] == sorted(q // 100 for q, _ in pairs)


def test_a_fraction_of_the_contexts_takes_part(spark: SparkSession) -> None:
    contexts = {c: [10 * c, 10 * c + 1] for c in range(2000)}
    training = Training(context_fraction=0.2, pairs_per_context=3)
    sampled = {q // 10 for q, _ in pairs_of(training_pairs(edges_of(spark, contexts), training, 7))}
    assert 320 < len(sampled) < 480
    again = {q // 10 for q, _ in pairs_of(training_pairs(edges_of(spark, contexts), training, 8))}
    assert sampled != again


def test_ranks_are_drawn_evenly(spark: SparkSession) -> None:
    contexts = {c: list(range(4)) for c in range(4000)}
    training = Training(context_fraction=1.0, pairs_per_context=1)
    count = Counter(pairs_of(training_pairs(edges_of(spark, contexts), training, 3)))
    assert len(count) == 12
    expected = 4000 / 12
    assert sum((n - expected) ** 2 / expected for n in count.values()) < 31.3  # chi-square, 11 df, p = .001


def test_partitions_and_order_do_not_matter(spark: SparkSession, contexts: dict[int, list[int]]) -> None:
    training = Training(context_fraction=0.5, pairs_per_context=4)
    base = pairs_of(training_pairs(edges_of(spark, contexts), training, 7))
    assert len(base) > 100
    for partitions in (1, 3, 7):
        edges = edges_of(spark, contexts, shuffled=True).repartition(partitions)
        assert pairs_of(training_pairs(edges, training, 7)) == base


def test_contexts_of_one_item_give_no_pairs(spark: SparkSession, tmp_path: Path) -> None:
    edges = edges_of(spark, {c: [c] for c in range(10)})
    pairs = training_pairs(edges, Training(context_fraction=1.0), 7)
    assert pairs_of(pairs) == []
    folder = place_of(str(tmp_path))
    write_pairs(pairs, folder)
    assert open_array(folder / "pairs.npy").shape == (0, 2)


def test_pairs_of_a_graph_in_memory_are_the_same(spark: SparkSession, contexts: dict[int, list[int]]) -> None:
    training = Training(context_fraction=0.5, pairs_per_context=3)
    item = np.concatenate([*contexts.values()]).astype(np.int32)
    context = np.repeat([*contexts], [len(one) for one in contexts.values()]).astype(np.int32)
    csr = BipartiteCsr.from_edges(item, context, None, 500, 300, np.arange(500), np.arange(300))
    expected = pairs_of(training_pairs(edges_of(spark, contexts), training, 11))
    assert [tuple(pair) for pair in pairs_in(csr, training, 11).tolist()] == expected

"""Hard negatives: the window of ranks is plain Python's, the curriculum grows, collisions do not count."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from reference.walks import Graph, hard_negatives, random_graph, visit_counts
from walkbits import settings
from walkbits.errors import InputError
from walkbits.models.pinsage import PinSage
from walkbits.network.subgraphs import Neighborhoods
from walkbits.stages.train_model import mapped_graph
from walkbits.training import objectives
from walkbits.training.arrays import TrainingData
from walkbits.training.examples import Examples
from walkbits.training.loop import Trained, train
from walkbits.training.negatives import HardNegatives, Partners, hard_negatives_of

HARD = settings.HardNegatives(first_rank=4, last_rank=12, num_walks=40, per_query=5, per_pair=3)
NO_PAIRS = np.empty((0, 2), np.int32)


def partners_of(pairs: np.ndarray, query: int) -> set[int]:
    return {int(b) for one in (pairs, pairs[:, ::-1]) for a, b in one if a == query}


@given(
    weighted=st.booleans(),
    restart=st.sampled_from([0.0, 0.4]),
    walk_length=st.integers(1, 4),
    num_walks=st.sampled_from([5, 150]),
    window=st.sampled_from([(1, 1), (1, 1000), (4, 9), (30, 40)]),
    per_query=st.sampled_from([1, 4, 60]),
    seed=st.integers(0, 2**63 - 1),
)
def test_equals_plain_python(
    weighted: bool, restart: float, walk_length: int, num_walks: int, window: tuple[int, int],
    per_query: int, seed: int,
) -> None:  # fmt: skip
    graph = random_graph(40, 12, 120, seed % 100, weighted)
    walks = settings.Walks(walk_length=walk_length, restart_probability=restart, block_size=16)
    hard = settings.HardNegatives(
        first_rank=window[0], last_rank=window[1], num_walks=num_walks, per_query=per_query, per_pair=1
    )
    pairs = np.random.default_rng(seed).integers(0, 40, (60, 2)).astype(np.int32)
    found = hard_negatives_of(
        graph.csr(), np.arange(40, dtype=np.int32), Partners.of(pairs), walks, hard, seed
    )  # fmt: skip
    expected = [hard_negatives(graph, q, partners_of(pairs, q), walks, hard, seed) for q in range(40)]
    assert found.dtype == np.int32
    assert found.tolist() == expected


def test_order_company_and_blocks_of_queries_change_nothing() -> None:
    csr = random_graph(60, 20, 300, 5, True).csr()
    pairs = np.random.default_rng(1).integers(0, 60, (90, 2)).astype(np.int32)
    nodes = np.arange(60, dtype=np.int32)
    whole = hard_negatives_of(csr, nodes, Partners.of(pairs), settings.Walks(), HARD, 9)
    mixed = np.random.default_rng(0).permutation(np.repeat(nodes, 2))
    turned = Partners.of(pairs[::-1, ::-1])
    small = settings.Walks(block_size=16)
    np.testing.assert_array_equal(hard_negatives_of(csr, mixed, turned, small, HARD, 9), whole[mixed])
    parts = [hard_negatives_of(csr, nodes[low : low + 7], turned, small, HARD, 9) for low in range(0, 60, 7)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_options_that_shape_neighborhoods_do_not_shape_the_ranks() -> None:
    csr, nodes = random_graph(60, 20, 300, 5, False).csr(), np.arange(60, dtype=np.int32)
    plain = hard_negatives_of(csr, nodes, Partners.of(NO_PAIRS), settings.Walks(), HARD, 9)
    others = (
        settings.Walks(popularity_penalty=0.7, early_stop=settings.EarlyStop(nodes=2, visits=1), num_walks=3),
        settings.Walks(method="push", num_neighbors=3),
    )
    for walks in others:
        found = hard_negatives_of(csr, nodes, Partners.of(NO_PAIRS), walks, HARD, 9)
        np.testing.assert_array_equal(found, plain)


def test_near_items_and_partners_are_never_hard_negatives() -> None:
    graph = random_graph(60, 20, 300, 6, False)
    pairs = np.random.default_rng(2).integers(0, 60, (200, 2)).astype(np.int32)
    walks = settings.Walks()
    wide = HARD.model_copy(update={"first_rank": 8, "last_rank": 60, "per_query": 60})
    found = hard_negatives_of(graph.csr(), np.arange(60, dtype=np.int32), Partners.of(pairs), walks, wide, 3)
    longer = walks.model_copy(update={"num_walks": wide.num_walks})
    for query in range(60):
        counts = visit_counts(graph, "item_from_item", query, longer, 3)
        nearest = sorted(counts, key=lambda item: (-counts[item], item))[:7]
        others = set(found[query].tolist()) - {query}
        assert not others & (set(nearest) | partners_of(pairs, query))
        assert others <= set(counts)


def test_few_visited_items_leave_no_hard_negatives() -> None:
    """Three items share a context: a window from rank 2000 is empty, and nothing fills it."""
    graph = Graph(4, 2, [(0, 0, 1), (1, 0, 1), (2, 0, 1), (3, 1, 1)], False, [1, 2, 3, 4], [5, 6])
    nodes = np.arange(4, dtype=np.int32)
    for first in (3, 2000):
        hard = settings.HardNegatives(first_rank=first, num_walks=100, per_query=6)
        found = hard_negatives_of(graph.csr(), nodes, Partners.of(NO_PAIRS), settings.Walks(), hard, 0)
        np.testing.assert_array_equal(found, np.repeat(nodes[:, None], 6, axis=1))
    with pytest.raises(InputError, match=r"item indices in 0\.\.3"):
        hard_negatives_of(graph.csr(), np.int32([4]), Partners.of(NO_PAIRS), settings.Walks(), HARD, 0)


def test_a_choice_is_keyed_by_pair_and_epoch() -> None:
    items = np.random.default_rng(0).permuted(np.tile(np.arange(50, dtype=np.int32), (3, 1)), axis=1)
    negatives = HardNegatives(np.int32([2, 5, 9]), items)
    query = np.int32([9, 2, 5, 2])
    chosen = negatives.choose(query, np.array([7, 1, 2, 3]), 4, 6, 11)
    assert chosen.shape == (4, 6)
    assert all(len(set(row)) == 6 for row in chosen.tolist())
    turned = negatives.choose(query[::-1], np.array([3, 2, 1, 7]), 4, 6, 11)
    np.testing.assert_array_equal(turned[::-1], chosen)
    assert (negatives.choose(query, np.array([7, 1, 2, 3]), 5, 6, 11) != chosen).any()
    assert negatives.choose(query, np.array([7, 1, 2, 3]), 4, 0, 11).shape == (4, 0)
    # every candidate is chosen as often as any other
    many = negatives.choose(np.full(50_000, 5, np.int32), np.arange(50_000), 1, 1, 0)
    counts = np.bincount(many.ravel(), minlength=50)
    assert ((counts - 1000) ** 2 / 1000).sum() < 85.4  # chi-square, 49 df, p = .001


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"first_rank": 9, "last_rank": 8}, "last_rank must be at least first_rank 9, got 8"),
        ({"per_pair": 51}, "per_query must be at least per_pair 51, got 50"),
        ({"first_rank": 0}, "greater than 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(change: dict[str, int], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        settings.HardNegatives(**change)


def test_a_graph_that_no_host_can_map_is_refused(tmp_path: Path) -> None:
    random_graph(80, 20, 300, 2, True).csr().save(tmp_path)
    context: Any = SimpleNamespace(
        artifacts=lambda name: tmp_path,
        config=SimpleNamespace(walks=settings.Walks(), model=PinSage()),
    )
    assert mapped_graph(context) == tmp_path
    context.config.walks = settings.Walks(plan="sharded")
    with pytest.raises(InputError, match=r"hard_negatives needs plan replicated, got a graph of .* bytes"):
        mapped_graph(context)


ITEMS = 120
MODEL = PinSage(hidden_size=8, embedding_size=8)


def inputs() -> tuple[np.ndarray, Neighborhoods, np.ndarray, HardNegatives]:
    rng = np.random.default_rng(4)
    features = rng.standard_normal((ITEMS, 6)).astype(np.float32)
    neighbors = rng.integers(0, ITEMS, ITEMS * 3).astype(np.int32)
    graph = Neighborhoods(np.arange(0, 3 * ITEMS + 1, 3), neighbors, np.tile(np.int32([3, 2, 1]), ITEMS))
    pairs = rng.integers(0, ITEMS, (300, 2)).astype(np.int32)
    queries = np.unique(pairs[:, 0])
    items = rng.integers(0, ITEMS, (len(queries), 8)).astype(np.int32)
    items[::2, 1:] = queries[::2, None]  # half of the queries have one candidate and no more
    return features, graph, pairs, HardNegatives(queries, items)


def data_of(
    features: np.ndarray, graph: Neighborhoods, pairs: np.ndarray, found: HardNegatives | None
) -> TrainingData:
    relations = {"item_from_item": graph.heaviest(2)}
    return TrainingData({"item": ITEMS}, {"item": features}, {}, relations, Examples.of_pairs(pairs), found)


def trained(hard: settings.HardNegatives | None, **changes: Any) -> Trained:
    features, graph, pairs, negatives = inputs()
    training = settings.Training(
        epochs=5, batch_size=64, num_negatives=7, train_neighbors=2, hard_negatives=hard
    ).model_copy(update=changes)
    found = None if hard is None else negatives
    return train(MODEL, training, data_of(features, graph, pairs, found), 0, lambda line: None)


FEW = settings.HardNegatives(per_pair=3, per_query=8)


def test_epoch_n_adds_n_minus_1_and_collisions_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[torch.Tensor, ...]] = []
    kept = objectives.max_margin

    def loss(batch: objectives.Embedded, margin: float) -> torch.Tensor:
        seen.append((batch.query, batch.positive, batch.shared, batch.own, batch.allowed))
        return kept(batch, margin)

    monkeypatch.setattr(objectives, "max_margin", loss)
    trained(FEW)
    steps = -(-300 // 64)
    assert len(seen) == 5 * steps
    for number, (query, positive, negative, hard, allowed) in enumerate(seen):
        count = min(number // steps, 3)
        pairs = len(query)
        assert negative.shape == (7, 8)
        assert hard.shape == (pairs, count, 8)
        against = torch.cat([negative.expand(pairs, 7, 8), hard], dim=1)
        # items are told apart by their embeddings, which no two of these items share
        is_query = (against == query[:, None]).all(dim=2)
        is_positive = (against == positive[:, None]).all(dim=2)
        assert torch.equal(allowed, ~is_query & ~is_positive)
    late = torch.cat([given[4][:, 7:].reshape(-1) for given in seen[2 * steps :]])
    assert 0.2 < float(late.float().mean()) < 0.8  # the padding of short rows


def test_the_ranks_of_hard_negatives_are_figures_from_the_epoch_that_has_some() -> None:
    metrics = trained(FEW).metrics
    ranks = {name: value for name, value in metrics.items() if name.startswith("hard_negative_rank")}
    assert [*ranks] == [f"hard_negative_rank[{number}]" for number in (2, 3, 4, 5)]
    assert all(1 <= rank <= 8 for rank in ranks.values())  # among 7 shared ones


def test_the_same_seed_gives_the_same_bits_with_hard_negatives() -> None:
    first, again, without = trained(FEW), trained(FEW), trained(None)
    assert first.metrics == again.metrics
    for name, array in first.weights.items():
        np.testing.assert_array_equal(array.view(np.uint32), again.weights[name].view(np.uint32))
    assert any((array != without.weights[name]).any() for name, array in first.weights.items())
    # the first epoch has none
    once = [trained(hard, epochs=1).weights for hard in (FEW, None)]
    assert all((once[0][name] == once[1][name]).all() for name in once[0])


def test_negatives_that_do_not_belong_to_the_pairs_are_refused() -> None:
    features, graph, pairs, negatives = inputs()
    training = settings.Training(hard_negatives=FEW)
    others = HardNegatives(negatives.queries[1:], negatives.items[1:])
    for found, rows in ((None, 0), (others, len(others.queries))):
        with pytest.raises(InputError, match=f"a row of them for every query, got {rows} rows"):
            train(MODEL, training, data_of(features, graph, pairs, found), 0, print)
    few = HardNegatives(negatives.queries, negatives.items[:, :2])
    with pytest.raises(InputError, match="per_pair 3 a query, got 2"):
        train(MODEL, training, data_of(features, graph, pairs, few), 0, print)

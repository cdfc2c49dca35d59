"""The walk kernel is bit-equal to plain Python, whatever the shape of the work."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.walks import Graph, neighborhood, random_graph, visit_counts
from scipy import stats
from walkbits.errors import InputError
from walkbits.graph.csr import BipartiteCsr
from walkbits.settings import EarlyStop, Walks
from walkbits.types import Relation
from walkbits.walks.kernel import neighborhoods_of

RELATIONS: tuple[Relation, ...] = ("item_from_item", "item_from_context", "context_from_item")


def rows_of(
    graph: Graph | BipartiteCsr, relation: Relation, nodes: Any, walks: Walks, seed: int
) -> list[list[tuple[int, int]]]:
    csr = graph.csr() if isinstance(graph, Graph) else graph
    indptr, neighbors, visits = neighborhoods_of(csr, relation, nodes, walks, seed)
    assert (indptr.dtype, neighbors.dtype, visits.dtype) == (np.int64, np.int32, np.int32)
    assert len(neighbors) == len(visits) == indptr[-1]
    return [
        list(zip(neighbors[low:high].tolist(), visits[low:high].tolist(), strict=True))
        for low, high in itertools.pairwise(indptr)
    ]


@settings(max_examples=60, deadline=None)
@given(
    relation=st.sampled_from(RELATIONS),
    weighted=st.booleans(),
    wide=st.booleans(),
    restart=st.sampled_from([0.0, 0.3, 0.999]),
    num_neighbors=st.sampled_from([1, 3, 50]),
    num_walks=st.sampled_from([1, 7, 150]),
    walk_length=st.integers(1, 4),
    penalty=st.sampled_from([0.0, 0.0, 0.4, 1.0]),
    early_stop=st.sampled_from([None, None, EarlyStop(nodes=3, visits=2)]),
    boost=st.booleans(),
    shape=st.sampled_from([(1, 1, 1), (25, 9, 20), (9, 25, 90), (300, 3, 280)]),
    seed=st.integers(0, 2**63 - 1),
)
def test_equals_plain_python(
    relation: Relation, weighted: bool, wide: bool, restart: float, num_neighbors: int, num_walks: int,
    walk_length: int, penalty: float, early_stop: EarlyStop | None, boost: bool,
    shape: tuple[int, int, int], seed: int,
) -> None:  # fmt: skip
    graph = random_graph(*shape, seed % 100, weighted)
    walks = Walks(
        num_walks=num_walks, walk_length=walk_length, restart_probability=restart,
        num_neighbors=num_neighbors, block_size=16,
        popularity_penalty=penalty, early_stop=early_stop, multi_source_boost=boost,
    )  # fmt: skip
    count = graph.num_contexts if relation.startswith("context") else graph.num_items
    nodes = np.arange(count)[: 2000 // num_walks + 1]
    csr = graph.csr()
    if wide:  # pointers as of a graph with 2^31 edges
        sides = (replace(side, indptr=side.indptr.astype(np.int64)) for side in (csr.item, csr.context))
        csr = BipartiteCsr(*sides, weighted)
    found = rows_of(csr, relation, nodes, walks, seed)
    assert found == [neighborhood(graph, relation, int(node), walks, seed) for node in nodes]


@pytest.mark.parametrize("relation", RELATIONS)
def test_blocks_order_and_company_of_nodes_change_nothing(relation: Relation) -> None:
    graph = random_graph(40, 40, 60, 5, True)
    whole = rows_of(graph, relation, np.arange(40), Walks(block_size=1000), 9)
    small = rows_of(graph, relation, np.arange(40), Walks(block_size=16), 9)
    assert small == whole
    mixed = np.random.default_rng(0).permutation(np.repeat(np.arange(40), 2))
    assert rows_of(graph, relation, mixed, Walks(), 9) == [whole[node] for node in mixed]
    assert rows_of(graph, relation, [], Walks(), 9) == []


def test_longer_and_more_walks_extend_the_same_paths() -> None:
    graph = random_graph(30, 20, 90, 2, False)
    base = Walks(num_walks=20, walk_length=3, restart_probability=0.2, num_neighbors=1000)
    for longer in (base.model_copy(update={"num_walks": 40}), base.model_copy(update={"walk_length": 6})):
        for few, many in zip(
            rows_of(graph, "item_from_item", np.arange(30), base, 1),
            rows_of(graph, "item_from_item", np.arange(30), longer, 1),
            strict=True,
        ):
            counts = dict(many)
            assert all(counts[node] >= count for node, count in few)


def test_an_early_stop_saves_walks_where_the_neighborhood_is_clear() -> None:
    graph = random_graph(30, 20, 90, 2, False)
    whole = Walks(num_walks=400)
    stopped = whole.model_copy(update={"early_stop": EarlyStop(nodes=2, visits=4)})
    most, least = (
        [
            sum(visits for _, visits in row)
            for row in rows_of(graph, "item_from_item", np.arange(30), walks, 1)
        ]
        for walks in (whole, stopped)
    )
    connected = [i for i, visits in enumerate(most) if visits]
    assert all(least[i] <= most[i] for i in connected)
    assert sum(least) < sum(most) / 4


def test_the_boost_prefers_what_many_sources_lead_to() -> None:
    """Ten of the context's items lead to item 20 once each; one alone leads to item 21, more often."""
    contexts = [(i, 0, 1) for i in range(10)]
    shared = [(i, 1 + i, 1) for i in range(10)] + [(20, 1 + i, 1) for i in range(10)]
    alone = [(0, 11 + i, 1) for i in range(30)] + [(21, 11 + i, 1) for i in range(30)]
    graph = Graph(22, 41, contexts + shared + alone, False, list(range(22)), list(range(41)))
    walks = Walks(num_walks=2000, walk_length=2, num_neighbors=22)

    def rank_of(item: int, boost: bool) -> int:
        chosen = walks.model_copy(update={"multi_source_boost": boost})
        (row,) = rows_of(graph, "context_from_item", [0], chosen, 3)
        return [node for node, _ in row].index(item)

    assert rank_of(20, True) < rank_of(21, True)
    assert rank_of(20, True) <= rank_of(20, False)


def test_shuffled_edges_give_the_same_neighborhoods() -> None:
    graph = random_graph(30, 20, 90, 3, True)
    shuffled = Graph(30, 20, graph.edges[::-1], True, graph.item_keys, graph.context_keys)
    walks = Walks()
    assert rows_of(graph, "item_from_item", np.arange(30), walks, 1) == rows_of(
        shuffled, "item_from_item", np.arange(30), walks, 1
    )


def test_draws_follow_the_key_and_not_the_position() -> None:
    """A node that is renumbered keeps its walks, up to the new numbers."""
    graph = random_graph(10, 30, 80, 4, False)
    moved = Graph(
        11, 30, [(i + 1, c, w) for i, c, w in graph.edges], False, [77, *graph.item_keys], graph.context_keys
    )  # fmt: skip
    before = rows_of(graph, "item_from_context", np.arange(10), Walks(), 1)
    assert rows_of(moved, "item_from_context", np.arange(1, 11), Walks(), 1) == before


def test_isolated_nodes_are_empty_and_no_node_neighbors_itself() -> None:
    graph = Graph(4, 3, [(0, 0, 1), (1, 0, 1), (3, 2, 1)], False, [1, 2, 3, 4], [5, 6, 7])
    assert rows_of(graph, "item_from_item", np.arange(4), Walks(), 0) == [
        [(1, visit_counts(graph, "item_from_item", 0, Walks(), 0)[1])],
        [(0, visit_counts(graph, "item_from_item", 1, Walks(), 0)[0])],
        [],  # no edges
        [],  # alone in its context
    ]
    # Of two types the same index is another node, and counts.
    assert rows_of(graph, "item_from_context", [0, 2, 3], Walks(), 0) == [[(0, 500)], [], [(2, 500)]]
    assert rows_of(graph, "context_from_item", [1, 2], Walks(), 0) == [[], [(3, 500)]]


def test_ties_at_the_cut_go_to_the_lower_index() -> None:
    contexts = 12
    graph = Graph(1, contexts, [(0, c, 1) for c in range(contexts)], False, [1], list(range(contexts)))
    walks = Walks(num_walks=6, walk_length=1, num_neighbors=2)
    for seed in range(50):
        (row,) = rows_of(graph, "item_from_context", [0], walks, seed)
        assert row == neighborhood(graph, "item_from_context", 0, walks, seed)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 41), min_size=1, max_size=300), st.integers(0, 2**63 - 1))
def test_the_search_finds_the_edge_however_skewed_the_weights(powers: list[int], seed: int) -> None:
    edges = [(0, context, 1 << power) for context, power in enumerate(powers)]
    graph = Graph(1, len(edges), edges, True, [seed % 1000], [0] * len(edges))
    walks = Walks(num_walks=100, walk_length=1, num_neighbors=100)
    (row,) = rows_of(graph, "item_from_context", [0], walks, seed)
    assert row == neighborhood(graph, "item_from_context", 0, walks, seed)


@pytest.mark.parametrize("weighted", [False, True])
def test_first_hop_frequencies_are_those_of_the_edges(weighted: bool) -> None:
    weights = [1 << 20, 3 << 20, 1 << 18, 5 << 20, 1 << 21]
    graph = Graph(1, 5, [(0, c, w) for c, w in enumerate(weights)], weighted, [123], [0] * 5)
    walks = Walks(num_walks=50_000, walk_length=1)
    (row,) = rows_of(graph, "item_from_context", [0], walks, 3)
    probability = np.array(weights if weighted else [1] * 5, float)
    expected = probability / probability.sum() * 50_000
    counts = [dict(row)[context] for context in range(5)]
    assert 0.001 < stats.chisquare(counts, expected).pvalue < 0.999


@pytest.mark.parametrize("nodes", [[-1], [4]])
def test_unknown_nodes_are_refused(nodes: list[int]) -> None:
    with pytest.raises(InputError, match=r"item indices in 0\.\.3"):
        rows_of(random_graph(4, 3, 5, 0, False), "item_from_item", nodes, Walks(), 0)

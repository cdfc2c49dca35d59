"""The exact visit distribution, and how the sampled one approaches it."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from reference.walks import Graph, random_graph
from walkbits.settings import Walks
from walkbits.types import Relation
from walkbits.walks.budget import reach_mass
from walkbits.walks.exact import exact_ppr
from walkbits.walks.fidelity import fidelity, sample_nodes
from walkbits.walks.kernel import neighborhoods_of

RELATIONS: tuple[Relation, ...] = ("item_from_item", "item_from_context", "context_from_item")


def enumerated_visits(graph: Graph, relation: str, node: int, walks: Walks) -> dict[int, Fraction]:
    """Every path with its probability, by hand."""
    target, source = relation.split("_from_")
    out = graph.rows(target)
    home = graph.rows("context" if target == "item" else "item")
    restart = Fraction(walks.restart_probability)
    visits: dict[int, Fraction] = {}

    def steps(row: list[tuple[int, int]]) -> list[tuple[int, Fraction]]:
        weights = [weight if graph.weighted else 1 for _, weight in row]
        return [(n, Fraction(w, sum(weights))) for (n, _), w in zip(row, weights, strict=True)]

    def follow(at: int, rounds: int, chance: Fraction) -> None:
        if not rounds or not chance:
            return
        for other, p in steps(out[at]):
            if source != target:
                visits[other] = visits.get(other, Fraction(0)) + chance * p
            for back, q in steps(home[other]):
                if source == target and back != node:
                    visits[back] = visits.get(back, Fraction(0)) + chance * p * q
                follow(back, rounds - 1, chance * p * q * (1 - restart))
                follow(node, rounds - 1, chance * p * q * restart)

    follow(node, walks.walk_length, Fraction(1))
    return visits


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("restart", [0.0, 0.25])
def test_equals_the_sum_over_all_paths(relation: Relation, weighted: bool, restart: float) -> None:
    graph = random_graph(5, 4, 7, 8, weighted)
    walks = Walks(walk_length=3, restart_probability=restart)
    count = 4 if relation.startswith("context") else 5
    exact = exact_ppr(graph.csr(), relation, np.arange(count, dtype=np.int32), walks)
    for node in range(count):
        expected = enumerated_visits(graph, relation, node, walks)
        dense = [float(expected.get(source, 0)) for source in range(exact.shape[1])]
        assert exact[node] == pytest.approx(dense, abs=1e-12)


@pytest.mark.parametrize("relation", RELATIONS)
def test_sampled_neighborhoods_approach_it(relation: Relation) -> None:
    csr = random_graph(60, 40, 300, 1, True).csr()
    nodes = sample_nodes(csr, relation, 30, 5)
    figures = []
    for num_walks in (20, 5000):
        walks = Walks(num_walks=num_walks, num_neighbors=10, restart_probability=0.2)
        found = neighborhoods_of(csr, relation, nodes, walks, 3)
        figures.append(fidelity(csr, relation, nodes, *found, walks))
    few, many = figures
    assert few["overlap_at_t"] < many["overlap_at_t"] > 0.9
    assert few["mass_at_t"] < many["mass_at_t"] > 0.99
    assert few["weight_error"] > many["weight_error"] < 0.02
    assert many["sampled_nodes"] == 30


def test_the_exact_answer_itself_scores_one() -> None:
    csr = random_graph(50, 30, 200, 1, False).csr()
    walks = Walks(num_neighbors=5)
    nodes = sample_nodes(csr, "item_from_item", 40, 0)
    exact = exact_ppr(csr, "item_from_item", nodes, walks)
    order = np.lexsort((np.broadcast_to(np.arange(50), exact.shape), -exact), axis=1)[:, :5]
    neighbors = order.astype(np.int32).ravel()
    scaled = np.rint(np.take_along_axis(exact, order, 1) * 1e6).astype(np.int32).ravel()
    figures = fidelity(csr, "item_from_item", nodes, np.arange(41) * 5, neighbors, scaled, walks)
    assert figures["overlap_at_t"] == figures["mass_at_t"] == 1.0
    assert figures["weight_error"] < 1e-4


def test_nodes_without_visits_are_left_out() -> None:
    graph = Graph(3, 2, [(0, 0, 1)], False, [1, 2, 3], [4, 5])
    csr = graph.csr()
    nodes = np.arange(3, dtype=np.int32)
    found = neighborhoods_of(csr, "item_from_item", nodes, Walks(), 0)
    assert fidelity(csr, "item_from_item", nodes, *found, Walks()) == {
        "overlap_at_t": 1.0, "mass_at_t": 1.0, "weight_error": 0.0, "sampled_nodes": 0.0,
    }  # fmt: skip


def test_the_sample_is_keyed() -> None:
    graph = random_graph(200, 50, 400, 1, False)
    csr = graph.csr()
    chosen = sample_nodes(csr, "item_from_item", 20, 7)
    assert len(chosen) == 20
    assert (np.diff(chosen) > 0).all()
    assert set(chosen) <= set(sample_nodes(csr, "item_from_item", 40, 7))  # a larger one extends it
    assert set(chosen) != set(sample_nodes(csr, "item_from_item", 20, 8))
    connected = int((np.diff(csr.item.indptr) > 0).sum())
    assert len(sample_nodes(csr, "item_from_item", 10_000, 7)) == connected < 200


def test_walks_double_until_they_reach_the_mass() -> None:
    csr = random_graph(60, 40, 300, 1, True).csr()
    nodes = sample_nodes(csr, "item_from_item", 64, 3)

    def mass(walks: Walks) -> float:
        return fidelity(
            csr, "item_from_item", nodes, *neighborhoods_of(csr, "item_from_item", nodes, walks, 3), walks
        )["mass_at_t"]

    walks = Walks(num_walks=5, num_neighbors=10, target_mass=0.97)
    reached = reach_mass(csr, "item_from_item", walks, 3)
    assert reached.num_walks in {5 << k for k in range(1, 12)}
    assert mass(reached) >= 0.97 > mass(reached.model_copy(update={"num_walks": reached.num_walks // 2}))
    assert (
        reach_mass(csr, "item_from_item", walks.model_copy(update={"target_mass": 1.0}), 3).num_walks == 5120
    )
    assert reach_mass(csr, "item_from_item", walks.model_copy(update={"target_mass": None}), 3).num_walks == 5

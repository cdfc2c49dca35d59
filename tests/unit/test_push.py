"""The push against the exact visits: within its bound, in one order, whatever the company."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from reference.walks import random_graph
from walkbits.config_file import parse_yaml
from walkbits.evaluation.rankers import graph_of
from walkbits.evaluation.splits import Edges, Split
from walkbits.evaluation.tables import rp3beta
from walkbits.settings import Walks
from walkbits.types import Relation
from walkbits.walks.exact import exact_ppr
from walkbits.walks.fidelity import fidelity, sample_nodes
from walkbits.walks.kernel import neighborhoods_of
from walkbits.walks.push import UNIT

RELATIONS: tuple[Relation, ...] = ("item_from_item", "item_from_context", "context_from_item")


@settings(max_examples=40, deadline=None)
@given(
    relation=st.sampled_from(RELATIONS),
    weighted=st.booleans(),
    restart=st.sampled_from([0.0, 0.3]),
    epsilon=st.sampled_from([1e-9, 0.05, 0.5]),
    walk_length=st.integers(1, 4),
    seed=st.integers(0, 50),
)
def test_visits_fall_short_of_the_exact_ones_by_at_most_epsilon(
    relation: Relation, weighted: bool, restart: float, epsilon: float, walk_length: int, seed: int
) -> None:
    csr = random_graph(30, 12, 60, seed, weighted).csr()
    walks = Walks(
        method="push", push_epsilon=epsilon, walk_length=walk_length, num_neighbors=1000,
        restart_probability=restart,
    )  # fmt: skip
    count = 12 if relation.startswith("context") else 30
    nodes = np.arange(count, dtype=np.int32)
    exact = exact_ppr(csr, relation, nodes, walks)
    indptr, neighbors, visits = neighborhoods_of(csr, relation, nodes, walks, 0)
    for node in nodes:
        own = slice(indptr[node], indptr[node + 1])
        pushed = np.zeros(exact.shape[1])
        pushed[neighbors[own]] = visits[own] / UNIT
        rounding = 1.0 / UNIT
        assert (pushed <= exact[node] + rounding).all()
        assert (exact[node] - pushed).sum() <= epsilon * walk_length + exact.shape[1] * rounding
        entries = list(zip((-visits[own]).tolist(), neighbors[own].tolist(), strict=True))
        assert entries == sorted(entries)


def test_order_and_company_of_nodes_change_nothing() -> None:
    csr = random_graph(60, 40, 300, 1, True).csr()
    walks = Walks(method="push", num_neighbors=7, popularity_penalty=0.4)
    whole = neighborhoods_of(csr, "item_from_item", np.arange(60), walks, 0)
    for node in (3, 17, 59):
        _, neighbors, visits = neighborhoods_of(csr, "item_from_item", np.array([node]), walks, 9)
        own = slice(whole[0][node], whole[0][node + 1])
        assert neighbors.tolist() == whole[1][own].tolist()
        assert visits.tolist() == whole[2][own].tolist()


def test_a_small_epsilon_finds_the_exact_top() -> None:
    csr = random_graph(60, 40, 300, 1, True).csr()
    nodes = sample_nodes(csr, "item_from_item", 40, 0)
    walks = Walks(method="push", push_epsilon=1e-6, num_neighbors=10)
    found = fidelity(
        csr, "item_from_item", nodes, *neighborhoods_of(csr, "item_from_item", nodes, walks, 0), walks
    )
    assert found["overlap_at_t"] > 0.995
    assert found["mass_at_t"] == pytest.approx(1.0, abs=1e-4)


def test_neighborhoods_of_item_pool_are_the_rows_of_rp3beta() -> None:
    """Sampled ones of a few hundred visits are not: where an item meets thousands of others, chance picks T."""
    file = Path(__file__).resolve().parents[2] / "conf" / "models" / "item_pool.yaml"
    walks = Walks.model_validate(parse_yaml(file.read_text(encoding="utf-8"))["walks"])
    random = np.random.default_rng(5)
    likely = random.beta(0.5, 4, 80)  # a few items in most contexts, many in few
    context, item = np.nonzero(random.random((120, 80)) < likely)
    split = Split.leave_one_out(Edges(context, item, 120, 80), 1, 30, 3)
    every = np.arange(80, dtype=np.int32)
    indptr, neighbors, visits = neighborhoods_of(
        graph_of(split, walks.context_weight_exponent), "item_from_item", every, walks, 0
    )
    alpha, beta = 1 - walks.context_weight_exponent, walks.popularity_penalty
    table = rp3beta(split.train, alpha, beta, 80).toarray()
    degree = np.maximum(split.popularity, 1.0)
    for one in every:
        own = slice(indptr[one], indptr[one + 1])
        found, shares = neighbors[own], visits[own] / visits[own].sum()
        assert len(found) == min(walks.num_neighbors, np.count_nonzero(table[one]))
        # the penalty orders the list; a neighbor counts by its visits
        exact = table[one] * degree**beta
        np.testing.assert_allclose(shares, exact[found] / exact[found].sum(), atol=0.02)
        left_out = np.delete(table[one], found)
        assert table[one][found].min(initial=1) >= left_out.max(initial=0) - 0.02 * table[one].max()


def test_options_of_walks_are_refused() -> None:
    with pytest.raises(ValidationError, match="method push goes without target_mass, multi_source_boost"):
        Walks(method="push", target_mass=0.9, multi_source_boost=True)

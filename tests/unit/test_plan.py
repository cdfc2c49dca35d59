"""The walk plan is chosen by size and says what it takes; what cannot fit is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from reference.walks import random_graph
from walkbits.errors import InputError
from walkbits.settings import EarlyStop, Walks
from walkbits.walks.plan import plan_walks


def test_a_graph_within_the_budget_is_replicated() -> None:
    plan = plan_walks(1_000_000, 200_000, 11_000_000, False, "item_from_item", Walks())
    assert (plan.name, plan.num_shards, plan.shuffled_bytes) == ("replicated", 1, 0)
    assert plan.visits == 1_000_000 * 100 * 5
    assert "plan replicated" in plan.explain()


@pytest.mark.parametrize("weighted", [False, True])
def test_the_estimate_is_the_size_of_the_files(tmp_path: Path, weighted: bool) -> None:
    graph = random_graph(3000, 700, 20_000, 1, weighted)
    graph.csr().save(tmp_path)
    size = sum(path.stat().st_size for path in tmp_path.glob("*.npy"))
    plan = plan_walks(3000, 700, len(graph.edges), weighted, "item_from_item", Walks())
    assert plan.graph_bytes == pytest.approx(size, rel=0.01)


def test_a_graph_over_the_budget_is_sharded_or_refused() -> None:
    small = Walks(host_bytes=1 << 20)
    plan = plan_walks(1_000_000, 200_000, 11_000_000, False, "item_from_context", small)
    assert plan.name == "sharded"
    assert plan.num_shards * small.host_bytes >= plan.graph_bytes
    assert plan.shuffled_bytes == 1_000_000 * 100 * 9 * 20
    with pytest.raises(InputError, match=r"host_bytes 1,048,576, got \d"):
        plan_walks(10**6, 10**5, 10**7, False, "item_from_item", Walks(host_bytes=1 << 20, plan="replicated"))


@pytest.mark.parametrize(
    "option", [{"early_stop": EarlyStop()}, {"multi_source_boost": True}, {"method": "push"}]
)
def test_what_only_replicated_has_is_refused_for_a_larger_graph(option: dict[str, object]) -> None:
    walks = Walks(host_bytes=1 << 20, **option)
    with pytest.raises(InputError, match=rf"walks\.{next(iter(option))}.* needs plan replicated"):
        plan_walks(10**6, 10**5, 10**7, False, "context_from_item", walks)

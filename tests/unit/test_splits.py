"""Splits: what is held out, that nothing leaks, and that no order of rows matters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from walkbits.errors import ConfigError, EmptyInputError, InputError
from walkbits.evaluation.splits import Edges, Split


def some_edges(seed: int = 3, contexts: int = 60, items: int = 40, times: bool = True) -> Edges:
    random = np.random.default_rng(seed)
    context, item = np.nonzero(random.random((contexts, items)) < random.uniform(0.02, 0.4, (contexts, 1)))
    return Edges(context, item, contexts, items, random.integers(0, 50, len(item)) if times else None)


def pairs(edges: Edges) -> set[tuple[int, int]]:
    return set(zip(edges.context.tolist(), edges.item.tolist(), strict=True))


def relevant(split: Split) -> dict[int, list[int]]:
    indptr, items = split.relevant
    return {
        q: items[a:b].tolist()
        for q, a, b in zip(split.queries.tolist(), indptr[:-1], indptr[1:], strict=True)
    }


MAKERS = {
    "leave_one_out": lambda edges: Split.leave_one_out(edges, 7, 30, 3),
    "random": lambda edges: Split.random(edges, 0.3, 7),
    "temporal": lambda edges: Split.temporal(edges, 0.3),
    "temporal within contexts": lambda edges: Split.temporal(edges, 0.3, "context"),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_train_and_held_out_edges_part_the_edges(make: object) -> None:
    edges = some_edges()
    split = make(edges)  # type: ignore[operator]
    held = {(q, i) for q, items in relevant(split).items() for i in items}
    assert held
    assert not held & pairs(split.edges)
    assert held | pairs(split.edges) <= pairs(edges)
    assert all(items == sorted(items) and items for items in relevant(split).values())
    indptr, masked = split.masked
    for row, query in enumerate(split.queries):
        assert masked[indptr[row] : indptr[row + 1]].tolist() == sorted(
            i for c, i in pairs(split.edges) if c == query
        )


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@given(order=st.randoms(use_true_random=False))
def test_no_order_of_rows_matters(make: object, order: object) -> None:
    edges = some_edges()
    rows = list(range(len(edges)))
    order.shuffle(rows)  # type: ignore[attr-defined]
    rows += rows[:5]  # a repeated edge counts once
    shuffled = Edges(edges.context[rows], edges.item[rows], 60, 40, edges.time[rows])  # type: ignore[index]
    a, b = make(edges), make(shuffled)  # type: ignore[operator]
    assert relevant(a) == relevant(b)
    assert pairs(a.edges) == pairs(b.edges)


def test_leave_one_out_takes_one_item_of_large_contexts() -> None:
    edges = some_edges()
    sizes = np.bincount(edges.context, minlength=60)
    every = Split.leave_one_out(edges, 7, 1000, 5)
    assert every.queries.tolist() == np.flatnonzero(sizes >= 5).tolist()
    assert {len(items) for items in relevant(every).values()} == {1}
    few = relevant(Split.leave_one_out(edges, 7, 6, 5))
    assert len(few) == 6
    assert few.items() <= relevant(every).items()
    assert relevant(Split.leave_one_out(edges, 8, 1000, 5)) != relevant(every)


def test_draws_belong_to_keys_not_to_indices() -> None:
    edges = some_edges(times=False)
    keys = (
        np.random.default_rng(0).permutation(10_000)[:60],
        np.random.default_rng(1).permutation(10_000)[:40],
    )
    keyed = Edges(edges.context, edges.item, 60, 40, None, *keys)
    context, item = (np.random.default_rng(s).permutation(n) for s, n in ((2, 60), (3, 40)))
    moved = Edges(
        context[edges.context], item[edges.item], 60, 40, None,
        keys[0][np.argsort(context)], keys[1][np.argsort(item)],
    )  # fmt: skip
    for make in (MAKERS["leave_one_out"], MAKERS["random"]):
        one, other = relevant(make(keyed)), relevant(make(moved))
        assert {context[q]: sorted(item[i]) for q, i in one.items()} == other


def test_random_holds_out_the_floor_of_each_context() -> None:
    edges = some_edges()
    held = relevant(Split.random(edges, 0.3, 1))
    sizes = np.bincount(edges.context, minlength=60)
    assert {c: len(held.get(c, [])) for c in range(60)} == {
        c: int(0.3 * n + 1e-9) for c, n in enumerate(sizes)
    }


def test_temporal_trains_on_nothing_later() -> None:
    edges = some_edges()
    time = dict(zip(zip(edges.context.tolist(), edges.item.tolist(), strict=True), edges.time, strict=True))  # type: ignore[arg-type]
    split = Split.temporal(edges, 0.2)
    held = relevant(split)
    last = max(time[pair] for pair in pairs(split.edges))
    assert min(time[c, i] for c, items in held.items() for i in items) >= last
    assert len(split.edges) == len(edges) - int(0.2 * len(edges))
    for c, items in relevant(Split.temporal(edges, 0.3, "context")).items():
        rest = [i for i in edges.item[edges.context == c] if i not in items]
        assert min(time[c, i] for i in items) >= max(time[c, i] for i in rest)


def test_given_tables_lose_what_is_trained_on() -> None:
    train = Edges(np.array([0, 1]), np.array([2, 3]), 3, 5)
    split = Split.given(train, Edges(np.array([0, 0, 2]), np.array([2, 4, 1]), 3, 5))
    assert relevant(split) == {0: [4], 2: [1]}  # context 2 has no history and stays
    assert np.diff(split.masked[0]).tolist() == [1, 0]
    with pytest.raises(EmptyInputError, match="held-out"):
        Split.given(train, train)
    with pytest.raises(InputError, match="share contexts and items"):
        Split.given(train, Edges(np.array([0]), np.array([4]), 3, 6))


def test_item_to_item_asks_for_what_follows_the_last_item() -> None:
    edges = Edges(np.array([0, 0, 0, 1, 1]), np.array([1, 3, 2, 0, 4]), 3, 5, np.array([1, 2, 3, 5, 6]))
    split = Split.given(edges, Edges(np.array([0, 0, 1, 2]), np.array([0, 4, 2, 2]), 3, 5)).item_to_item(1)
    assert split.queries.tolist() == [2, 4]  # context 2 has no history
    assert [split.relevant[1][a:b].tolist() for a, b in ((0, 2), (2, 3))] == [[0, 4], [2]]
    assert split.history.toarray().argmax(axis=1).tolist() == [2, 4]
    drawn = Split.leave_one_out(some_edges(times=False), 7, 30, 3)
    query = drawn.item_to_item(1).queries
    assert all(i in drawn.train[[c]].indices for c, i in zip(drawn.queries, query, strict=True))


def test_some_queries_keep_their_answers() -> None:
    split = MAKERS["random"](some_edges())
    rows = np.array([0, 3, 4])
    assert relevant(split.some(rows)) == {
        int(split.queries[r]): relevant(split)[int(split.queries[r])] for r in rows
    }
    assert len(split.sample(5, 1).queries) == 5
    held = relevant(split.validation(0.2, 1))
    assert {(c, i) for c, items in held.items() for i in items} <= pairs(split.edges)


def test_summed_is_the_weighted_sum_of_the_history() -> None:
    split, x = (
        MAKERS["random"](some_edges()),
        np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32),
    )
    weights = np.random.default_rng(1).random(40).astype(np.float32)
    expected = split.history.toarray().astype(np.float64) @ (x * weights[:, None].astype(np.float64))
    np.testing.assert_allclose(split.summed(x, weights), expected, rtol=1e-6, atol=1e-6)


def test_what_cannot_be_split_is_refused() -> None:
    with pytest.raises(ConfigError, match="times"):
        Split.temporal(some_edges(times=False), 0.1)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        Split.random(some_edges(), 1.0, 1)
    with pytest.raises(InputError, match="item must be an index"):
        Edges(np.array([0]), np.array([5]), 1, 5)
    apart = Edges(np.array([0, 1]), np.array([0, 1]), 2, 2, np.array([1, 2]))
    with pytest.raises(EmptyInputError, match="both sides"):
        Split.temporal(apart, 0.5)

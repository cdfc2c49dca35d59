"""Exact top-k: equal to a sort of exact scores, ties and exclusions included."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from walkbits.index.exact import ITEM_BLOCK, lengths, nothing_excluded, top_k, top_k_dense, top_k_spread


def reference(queries: np.ndarray, items: np.ndarray, k: int, banned: list[set[int]]) -> list[list[int]]:
    """Sort every item by (fp32 of the sequential fp64 sum, item)."""
    lists = []
    for query, row in enumerate(queries.astype(np.float64)):
        keyed = []
        for item, column in enumerate(items.astype(np.float64)):
            total = 0.0
            for a, b in zip(row, column, strict=True):
                total += float(a) * float(b)
            if item not in banned[query]:
                keyed.append((-np.float32(total), item))
        best = [item for _, item in sorted(keyed)[:k]]
        lists.append(best + [-1] * (k - len(best)))
    return lists


def exclusion(banned: list[set[int]]) -> tuple[np.ndarray, np.ndarray]:
    indptr = np.cumsum([0, *(len(one) for one in banned)])
    return indptr, np.array([item for one in banned for item in sorted(one)], np.int64)


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 12), st.sampled_from([1, 3, 1000]))
def test_equals_a_full_sort(seed: int, num_items: int, k: int, levels: int) -> None:
    """Few levels per coordinate make ties common."""
    random = np.random.default_rng(seed)
    items = np.round(random.standard_normal((num_items, 5)) * levels).astype(np.float32) / levels
    queries = items[random.integers(0, num_items, 4)]
    banned = [set(random.integers(0, num_items, random.integers(0, 5)).tolist()) for _ in queries]
    found, scores = top_k(queries, items, k, exclusion(banned))
    assert found.tolist() == reference(queries, items, k, banned)
    assert (scores[:, 1:] <= scores[:, :-1]).all()


def test_near_ties_are_told_apart_over_block_borders() -> None:
    """Copies and copies one rounding step away, spread over several item blocks."""
    random = np.random.default_rng(1)
    base = random.standard_normal((1, 64)).astype(np.float32)
    items = np.repeat(base, 2 * ITEM_BLOCK + 50, axis=0)
    touched = random.integers(0, len(items), 300)
    items[touched, random.integers(0, 64, 300)] *= np.float32(1 + 2**-23)
    found, _ = top_k(base, items, 40, nothing_excluded(1))
    assert found.tolist() == reference(base, items, 40, [set()])


def test_lists_do_not_depend_on_how_queries_are_cut() -> None:
    random = np.random.default_rng(2)
    items = random.standard_normal((700, 48)).astype(np.float32)
    itself = (np.arange(701), np.arange(700))
    found, scores = top_k(items, items, 9, itself)
    for start, stop in [(0, 1), (1, 258), (258, 700)]:
        part = (np.arange(stop - start + 1), np.arange(start, stop))
        again = top_k(items[start:stop], items, 9, part)
        np.testing.assert_array_equal(again[0], found[start:stop])
        np.testing.assert_array_equal(again[1], scores[start:stop])
    assert not (found == np.arange(700)[:, None]).any()


def test_zero_and_tiny_vectors_are_ranked_like_all_others() -> None:
    items = np.zeros((30, 8), np.float32)
    items[7] = 1e-25
    items[20] = -1e-25
    found, _ = top_k(items[[0, 7]], items, 4, nothing_excluded(2))
    assert found.tolist() == reference(items[[0, 7]], items, 4, [set(), set()])


def test_dense_scores_are_ranked_by_score_then_item() -> None:
    scores = np.array([[1.0, 3.0, 3.0, 0.0], [0.0, 0.0, -math.inf, 0.0]])
    found = top_k_dense(scores, 3, (np.array([0, 1, 2]), np.array([1, 0])))
    assert found.tolist() == [[2, 0, 3], [1, 3, -1]]


@pytest.mark.parametrize("k", [5, 9])
def test_short_catalogues_leave_places_empty(k: int) -> None:
    items = np.eye(4, dtype=np.float32)
    found, scores = top_k(items, items, k, (np.arange(5), np.arange(4)))
    assert (found[:, 3:] == -1).all()
    assert np.isneginf(scores[:, 3:]).all()


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 12), st.integers(1, 4), st.integers(1, 6))
def test_spread_lists_are_what_going_down_a_sort_takes(
    seed: int, num_items: int, k: int, at_most: int, num_groups: int
) -> None:
    random = np.random.default_rng(seed)
    items = np.round(random.standard_normal((num_items, 5)) * 2).astype(np.float32) / 2
    groups = random.integers(-1, num_groups, num_items).astype(np.int32)
    queries = np.concatenate([items[random.integers(0, num_items, 3)], np.zeros((1, 5), np.float32)])
    banned = [set(random.integers(0, num_items, random.integers(0, 5)).tolist()) for _ in queries]
    expected = []
    for whole in reference(queries, items, num_items, banned):
        taken: list[int] = []
        for item in (one for one in whole if one >= 0):
            full = groups[item] >= 0 and sum(groups[other] == groups[item] for other in taken) >= at_most
            taken += [] if full or len(taken) == k else [item]
        expected.append(taken + [-1] * (k - len(taken)))
    longest = float(lengths(items).max())
    found, scores = top_k_spread(queries, items, groups, at_most, k, exclusion(banned), longest)
    assert found.tolist() == expected
    assert (scores[found < 0] == -np.inf).all()


def test_spread_lists_over_block_borders_hold_the_best_of_each_group() -> None:
    random = np.random.default_rng(3)
    items = random.standard_normal((2 * ITEM_BLOCK + 70, 16)).astype(np.float32)
    groups = (np.arange(len(items)) % 11).astype(np.int32)
    queries = random.standard_normal((5, 16)).astype(np.float32)
    longest = float(lengths(items).max())
    found, _ = top_k_spread(queries, items, groups, 1, 11, nothing_excluded(5), longest)
    members = [np.flatnonzero(groups == group) for group in range(11)]
    for row in range(5):
        exact = items.astype(np.float64) @ queries[row]
        best = [own[np.argmax(exact[own])] for own in members]
        assert found[row].tolist() == sorted(best, key=lambda item: -exact[item])
    whole, same = top_k(queries, items, 9, nothing_excluded(5))
    ungrouped = np.full(len(items), -1, np.int32)
    again = top_k_spread(queries, items, ungrouped, 1, 9, nothing_excluded(5), longest)
    np.testing.assert_array_equal(again[0], whole)
    np.testing.assert_array_equal(again[1], same)

"""Lists that are refreshed equal lists that are searched anew, or say that they are not whole."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from walkbits.index.exact import nothing_excluded, top_k
from walkbits.index.refresh import refreshed


def searched(
    queries: np.ndarray, items: np.ndarray, k: int, allowed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    found, scores = top_k(queries, items[allowed], k, nothing_excluded(len(queries)), ids=allowed)
    return found, scores


@settings(max_examples=80)
@given(
    st.integers(0, 2**32), st.integers(1, 30), st.integers(1, 8), st.integers(0, 30), st.sampled_from([1, 4])
)
def test_whole_lists_are_those_of_a_scan(
    seed: int, count: int, k: int, num_changed: int, levels: int
) -> None:
    """Items are changed, taken away and added; few levels make ties common."""
    random = np.random.default_rng(seed)
    before = np.round(random.standard_normal((count + 5, 3)) * levels).astype(np.float32) / levels
    after = before.copy()
    touched = np.sort(random.choice(count, min(num_changed, count), replace=False))
    after[touched] = np.round(random.standard_normal((len(touched), 3)) * levels) / levels
    taken = touched[::3]
    added = np.arange(count, count + random.integers(0, 5))
    changed = np.concatenate([touched, added])
    queries = before[random.integers(0, count, 6)]
    there = np.setdiff1d(np.concatenate([np.arange(count), added]), taken)
    old = searched(queries, before, k, np.arange(count))
    offered = searched(queries, after, k, np.intersect1d(changed, there))
    (found, scores), whole = refreshed(old, changed, offered)
    expected, exact = searched(queries, after, k, there)
    assert found[whole].tolist() == expected[whole].tolist()
    assert scores[whole].tolist() == exact[whole].tolist()
    if not len(touched):
        assert whole.all()


def test_a_list_that_lost_an_item_to_a_fall_is_searched_again() -> None:
    old = (np.array([[4, 2], [1, 3]]), np.array([[0.9, 0.8], [0.7, 0.6]], np.float32))
    offered = (np.array([[4, -1], [4, -1]]), np.array([[0.1, -np.inf], [0.65, -np.inf]], np.float32))
    (found, _), whole = refreshed(old, np.array([4]), offered)
    assert whole.tolist() == [False, True]
    assert found.tolist() == [[2, 4], [1, 4]]

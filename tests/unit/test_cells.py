"""Cells: a keyed training, and a search that ranks what it scores as a scan would."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from walkbits.index.cells import gaps_of, lifted, nearest_cells, num_cells, sampled, search, train
from walkbits.index.exact import Items, lengths, nothing_excluded, top_k


def clustered(count: int, size: int = 12, seed: int = 3) -> np.ndarray:
    """Items around a few centres, of lengths that differ."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((9, size))
    x = centres[random.integers(0, 9, count)] + 0.4 * random.standard_normal((count, size))
    return x.astype(np.float32)


def by_cell(items: np.ndarray, longest: float) -> tuple[np.ndarray, np.ndarray, Items, np.ndarray]:
    """Centroids, starts, layout and home of each item."""
    centroids = train(items, longest, seed=5)
    home = nearest_cells(items, centroids, 1, longest)[0][:, 0]
    order = np.argsort(home, kind="stable")
    starts = np.searchsorted(home[order], np.arange(len(centroids) + 1))
    return centroids, starts, Items(items[order], order), home


@settings(max_examples=25)
@given(st.integers(1, 120), st.integers(1, 8), st.integers(0, 1000))
def test_lists_are_the_best_of_what_is_scored(count: int, k: int, seed: int) -> None:
    items = clustered(count, seed=seed)
    longest = float(lengths(items).max())
    centroids, starts, layout, home = by_cell(items, longest)
    queries = clustered(7, seed=seed + 1)
    near, cosines = nearest_cells(queries, centroids, min(3, len(centroids)), None)
    gaps = gaps_of(cosines, np.diff(starts)[near], 0)
    probed = np.where(gaps <= np.float32(0.3), near, np.int32(-1))
    banned = np.sort(np.random.default_rng(seed).integers(0, count, (7, 2)), axis=1)
    excluded = (np.arange(0, 15, 2), banned.ravel())
    found, scores = search(queries, probed, starts, layout, longest, k, excluded)
    for row in range(7):
        inside = np.isin(home, probed[row])
        inside[banned[row]] = False
        if inside.sum() < k:  # a list that its cells do not fill
            inside = ~np.isin(np.arange(count), banned[row])
        members = np.flatnonzero(inside)
        expected, exact = top_k(queries[[row]], items[members], k, nothing_excluded(1))
        filled = expected[0] >= 0
        assert found[row].tolist() == [*members[expected[0][filled]], *[-1] * (k - filled.sum())]
        np.testing.assert_array_equal(scores[row], exact[0])


def test_the_nearest_cells_that_hold_more_than_k_items_are_always_scored() -> None:
    cosines = np.array([[0.9, 0.8, 0.5, 0.1]], np.float32)
    sizes = np.array([[2, 1, 4, 9]])
    behind = (cosines[:, :1] - cosines)[0].tolist()
    for k, free in ((0, 1), (1, 1), (2, 2), (3, 3), (6, 3), (7, 4)):
        assert gaps_of(cosines, sizes, k)[0].tolist() == [0.0] * free + behind[free:]


def test_all_cells_together_are_the_scan() -> None:
    items = clustered(300)
    longest = float(lengths(items).max())
    centroids, starts, layout, _ = by_cell(items, longest)
    everything = np.tile(np.arange(len(centroids), dtype=np.int32), (50, 1))
    found = search(items[:50], everything, starts, layout, longest, 11, nothing_excluded(50))
    for mine, scanned in zip(found, top_k(items[:50], items, 11, nothing_excluded(50)), strict=True):
        np.testing.assert_array_equal(mine, scanned)


def test_lifting_keeps_products_and_evens_lengths() -> None:
    items = clustered(40)
    longest = float(lengths(items).max())
    on_sphere = lifted(items, longest)
    np.testing.assert_array_equal(on_sphere[:, :-1], items)
    np.testing.assert_allclose(np.linalg.norm(on_sphere, axis=1), longest, rtol=1e-6)


def test_training_repeats_itself_and_depends_on_the_seed() -> None:
    items = clustered(500)
    longest = float(lengths(items).max())
    centroids = train(items, longest, seed=1)
    assert centroids.shape == (num_cells(500), 13)
    np.testing.assert_array_equal(centroids, train(items.copy(), longest, seed=1))
    assert not np.array_equal(centroids, train(items, longest, seed=2))
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("copies", [1, 2, 30])
def test_equal_items_and_zeros_have_cells_too(copies: int) -> None:
    items = np.zeros((copies, 4), np.float32)
    centroids = train(items, 0.0, seed=0)
    near, cosines = nearest_cells(items, centroids, len(centroids), 0.0)
    assert np.isfinite(cosines).all()
    assert (near >= 0).all()


def test_a_sample_is_keyed_and_ascends() -> None:
    assert sampled(5, 9, seed=1).tolist() == [0, 1, 2, 3, 4]
    sample = sampled(10_000, 300, seed=1)
    assert len(np.unique(sample)) == 300
    assert (np.diff(sample) > 0).all()
    assert not np.array_equal(sample, sampled(10_000, 300, seed=2))

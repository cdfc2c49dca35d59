"""Popularity and item-KNN against dense arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from walkbits.evaluation import baselines


def random_matrix(seed: int, contexts: int = 60, items: int = 25) -> np.ndarray:
    return (np.random.default_rng(seed).random((contexts, items)) < 0.15).astype(np.float32)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("num_neighbors", [1, 4, 100])
def test_item_knn_is_the_cut_cosine(seed: int, num_neighbors: int) -> None:
    dense = random_matrix(seed)
    dense[:, 3] = 0  # an item nobody has
    length = np.sqrt(np.maximum(dense.sum(axis=0), 1))
    cosine = dense.T.astype(np.float64) @ dense / np.outer(length, length)
    np.fill_diagonal(cosine, 0)
    expected = np.zeros_like(cosine)
    for item, row in enumerate(cosine):
        # Rounding as in the sparse code, so that mathematical ties stay ties.
        nearest = np.lexsort((np.arange(25), -np.round(row, 12)))[:num_neighbors]
        expected[item, nearest] = row[nearest]
    found = baselines.item_knn(sparse.csr_array(dense), num_neighbors, block=7)
    assert found.shape == (25, 25)
    np.testing.assert_allclose(found.sum(axis=1), expected.sum(axis=1), atol=1e-9)
    counts = np.diff(found.tocsr().indptr)
    assert (counts == np.minimum((cosine > 0).sum(axis=1), num_neighbors)).all()


def test_ties_keep_the_lower_item() -> None:
    dense = np.array([[1, 1, 1, 1], [1, 1, 1, 1]], np.float32)
    found = baselines.item_knn(sparse.csr_array(dense), 2)
    assert [found[[row]].indices.tolist() for row in range(4)] == [[1, 2], [0, 2], [0, 1], [0, 1]]


def test_popularity_counts_contexts() -> None:
    dense = random_matrix(9)
    np.testing.assert_array_equal(baselines.popularity(sparse.csr_array(dense)), dense.sum(axis=0))

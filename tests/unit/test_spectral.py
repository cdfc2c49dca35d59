"""The randomised SVD against a dense one, and the vectors against their definition."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from walkbits.errors import ConfigError
from walkbits.evaluation import spectral


def train(seed: int = 0) -> sparse.csr_array:
    random = np.random.default_rng(seed)
    likely = np.where((np.arange(80)[:, None] % 5) == (np.arange(50) % 5), 0.5, 0.05)
    dense = random.random((80, 50)) < likely
    dense[7] = dense[:, 4] = False
    return sparse.csr_array(dense.astype(np.float32))


def dense_normalised(x: np.ndarray, a: float, b: float) -> np.ndarray:
    return np.maximum(x.sum(axis=1), 1)[:, None] ** -a * x * np.maximum(x.sum(axis=0), 1) ** -b


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (0.0, 0.4)])
def test_normalised_divides_by_degrees(a: float, b: float) -> None:
    x = train().toarray().astype(np.float64)
    np.testing.assert_allclose(
        spectral.normalised(train(), a, b).toarray(), dense_normalised(x, a, b), rtol=1e-6
    )


@pytest.mark.parametrize("rank", [1, 5, 50])
def test_triplets_are_those_of_a_dense_svd(rank: int) -> None:
    matrix = spectral.normalised(train(), 0.5, 0.5)
    u, s, v = spectral.randomised_svd(matrix, rank, 1, iterations=12)
    exact = np.linalg.svd(matrix.toarray().astype(np.float64), compute_uv=False)[:rank]
    np.testing.assert_allclose(s, exact, atol=2e-3)
    # The largest five are apart from the rest: they must agree as a space and as vectors.
    few = min(rank, 5)
    left, values, right = np.linalg.svd(matrix.toarray().astype(np.float64))
    rebuilt = (left[:, :few] * values[:few]) @ right[:few]
    np.testing.assert_allclose((u[:, :few] * s[:few]) @ v[:, :few].T, rebuilt, atol=2e-3)
    np.testing.assert_allclose(v[:, :few].T @ v[:, :few], np.eye(few), atol=1e-5)
    assert (v[np.abs(v).argmax(axis=0), np.arange(rank)] > 0).all()


def test_scores_are_the_projection_of_the_context() -> None:
    x = train().toarray().astype(np.float64)
    contexts, items = spectral.fit(train(), 5, 1, 0.5, 0.4, 0.5, 0.3)
    _, s, vt = np.linalg.svd(dense_normalised(x, 0.5, 0.4))
    degrees = np.maximum(x.sum(axis=0), 1)
    expected = dense_normalised(x, 0.5, 0.4) @ vt[:5].T * s[:5] ** 0.5 @ vt[:5] * degrees**0.3
    np.testing.assert_allclose(contexts @ items.T, expected, atol=0.02 * np.abs(expected).max())
    assert not contexts[7].any()


def test_the_seed_gives_the_bits_and_hardly_matters() -> None:
    matrix = spectral.normalised(train(), 0.5, 0.5)
    one, again, other = (spectral.randomised_svd(matrix, 5, seed, iterations=8) for seed in (1, 1, 2))
    for a, b in zip(one, again, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(one[1], other[1], rtol=1e-4)
    assert (one[0] != other[0]).any()


def test_more_dimensions_than_the_graph_has_are_refused() -> None:
    with pytest.raises(ConfigError, match="from 1 to 50"):
        spectral.fit(train(), 51, 1)

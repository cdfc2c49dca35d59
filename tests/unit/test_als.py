"""iALS against its objective, minimised by plain linear algebra one row at a time."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy import sparse
from walkbits.evaluation import als

A0, LAMBDA = 0.05, 0.03


def train(seed: int = 0) -> sparse.csr_array:
    dense = np.random.default_rng(seed).random((40, 25)) < 0.2
    dense[7] = dense[:, 4] = False
    return sparse.csr_array(dense.astype(np.float32))


def loss(x: np.ndarray, w: np.ndarray, h: np.ndarray, nu: float) -> float:
    score = w.astype(np.float64) @ h.T.astype(np.float64)
    ridge = ((x.sum(axis=1) + A0 * x.shape[1]) ** nu * (w.astype(np.float64) ** 2).sum(axis=1)).sum()
    ridge += ((x.sum(axis=0) + A0 * x.shape[0]) ** nu * (h.astype(np.float64) ** 2).sum(axis=1)).sum()
    return float(((score - 1) ** 2 * x).sum() + A0 * (score**2).sum() + LAMBDA * ridge)


@pytest.mark.parametrize("nu", [0.0, 0.5, 1.0])
def test_a_half_epoch_solves_each_row(nu: float) -> None:
    x, h = train().toarray(), als.first_vectors(25, 8, 3).astype(np.float64)
    solved = als.solve(train(), h.astype(np.float32), A0, LAMBDA, nu)
    for u in range(40):
        own = h[x[u] > 0]
        system = own.T @ own + A0 * h.T @ h + LAMBDA * (len(own) + A0 * 25) ** nu * np.eye(8)
        np.testing.assert_allclose(solved[u], np.linalg.solve(system, own.sum(axis=0)), rtol=1e-3, atol=1e-5)
    assert not solved[7].any()


@pytest.mark.parametrize("nu", [0.0, 1.0])
def test_every_epoch_lowers_the_objective(nu: float) -> None:
    x, seen = train().toarray(), []
    als.fit(train(), 6, A0, LAMBDA, 5, 1, nu, lambda epoch, w, h: seen.append(loss(x, w, h, nu)))
    assert len(seen) == 5
    assert all(later < earlier for earlier, later in pairwise(seen))


def test_no_single_coordinate_can_be_bettered() -> None:
    x = train().toarray()
    w, h = als.fit(train(), 4, A0, LAMBDA, 200, 1)
    best = loss(x, w, h, 1.0)
    for table in (w, h):
        for row, column in ((1, 0), (9, 2), (20, 3)):
            for step in (-0.02, 0.02):
                table[row, column] += step
                assert loss(x, w, h, 1.0) > best
                table[row, column] -= step


def test_the_seed_gives_the_bits() -> None:
    one, again, other = (als.fit(train(), 6, A0, LAMBDA, 3, seed)[1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    # A row's start depends on its index alone: a longer table begins with a shorter one.
    np.testing.assert_array_equal(als.first_vectors(9, 6, 1)[:5], als.first_vectors(5, 6, 1))
    assert als.first_vectors(4000, 16, 1).std() == pytest.approx(0.1 / 4, rel=0.02)


def test_rows_do_not_depend_on_each_other() -> None:
    h = als.first_vectors(25, 8, 3)
    whole = als.solve(train(), h, A0, LAMBDA)
    np.testing.assert_array_equal(als.solve(train()[[3, 11]], h, A0, LAMBDA), whole[[3, 11]])

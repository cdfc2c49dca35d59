"""The draw: its bits, its broadcasting, its uniformity."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import walks as reference
from scipy import stats
from walkbits.rng import draw, uniform

# (seed, node, walk, step) -> draw. These bits are a promise: changing them changes every table.
GOLDEN = [
    ((0, 0, 0, 0), 17679984966728506479),
    ((7, 1, 0, 5), 6606406308611121861),
    ((7, -1, 0, 5), 6761318739488227155),
    ((7, 1, 3, 5), 9692477624380274488),
    ((7, -1, 3, 5), 8523506614156454567),
]
int64 = st.integers(-(2**63), 2**63 - 1)


@pytest.mark.parametrize(("key", "expected"), GOLDEN)
def test_golden_vectors(key: tuple[int, int, int, int], expected: int) -> None:
    assert int(draw(*key)) == expected


@given(int64, int64, st.integers(0, 2**40), st.integers(0, 2**40))
def test_equals_the_formula_in_python_integers(seed: int, node: int, walk: int, step: int) -> None:
    expected = reference.draw(seed, node, walk, step)
    assert int(draw(seed, node, walk, step)) == expected
    assert int(draw(seed, np.uint64(node % 2**64), walk, step)) == expected


def test_broadcasts_and_depends_on_nothing_but_its_four_numbers() -> None:
    nodes, walks = np.arange(5), np.arange(3)[:, None]
    block = draw(1, nodes, walks, 9)
    assert block.shape == (3, 5)
    assert block.dtype == np.uint64
    assert all(block[w, n] == draw(1, n, w, 9) for n in range(5) for w in range(3))
    assert draw(1, np.empty(0, np.int64)).shape == (0,)


@pytest.mark.parametrize("varied", ["seed", "node", "walk", "step"])
def test_each_number_alone_gives_uniform_bits(varied: str) -> None:
    draws = draw(**({"seed": 3, "node": 4, "walk": 5, "step": 6} | {varied: np.arange(200_000)}))
    counts = np.bincount((draws >> np.uint64(54)).astype(np.int64), minlength=1024)
    assert 0.001 < stats.chisquare(counts).pvalue < 0.999
    bits = np.unpackbits(draws.view(np.uint8)).reshape(len(draws), 64).mean(axis=0)
    assert np.abs(bits - 0.5).max() < 0.006  # 5 standard deviations
    values = uniform(draws)
    assert 0 <= values.min() <= values.max() < 1
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.01

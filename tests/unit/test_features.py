"""Feature arithmetic against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from walkbits.ingest.features import project, signs, standardise, unit_length, vectors_of
from walkbits.ingest.space import FeatureGroup
from walkbits.rng import draw

WIDTH, SEED, STREAM = 24, 5, 0x5349474E
IDF = np.linspace(0.5, 3.0, 64)


def reference_row(buckets: list[int]) -> list[float]:
    """tf x idf x sign, summed in plain Python, then scaled to unit length."""
    total = [0.0] * WIDTH
    for bucket in sorted(set(buckets)):
        weight = IDF[bucket] * buckets.count(bucket)
        for j in range(WIDTH):
            word = int(draw(SEED, bucket, STREAM, j // 64))
            total[j] += weight * (1.0 if word >> (j % 64) & 1 else -1.0)
    norm = math.sqrt(sum(x * x for x in total)) or 1.0
    return [x / norm for x in total]


@given(st.lists(st.lists(st.integers(0, 63), max_size=6), min_size=1, max_size=8))
def test_projection_is_the_plain_sum(rows: list[list[int]]) -> None:
    flat = np.array([b for row in rows for b in sorted(row)], np.int32)
    lengths = np.array([len(row) for row in rows])
    found = project(flat, lengths, IDF, WIDTH, SEED)
    np.testing.assert_allclose(found, [reference_row(row) for row in rows], atol=1e-12)


@given(st.lists(st.lists(st.integers(0, 63), max_size=6), min_size=2, max_size=8), st.integers(1, 7))
def test_rows_do_not_depend_on_their_batch(rows: list[list[int]], cut: int) -> None:
    def batch(part: list[list[int]]) -> np.ndarray:
        flat = np.array([b for row in part for b in sorted(row)], np.int32)
        return project(flat, np.array([len(row) for row in part]), IDF, WIDTH, SEED)

    cut = min(cut, len(rows) - 1)
    whole = batch(rows)
    np.testing.assert_array_equal(whole, np.vstack([batch(rows[:cut]), batch(rows[cut:])]))


def test_signs_are_balanced_and_independent() -> None:
    matrix = signs(np.arange(2000, dtype=np.int32), 130, 3)
    assert set(np.unique(matrix)) == {-1.0, 1.0}
    assert abs(matrix.mean()) < 0.01
    correlation = matrix.T @ matrix / len(matrix) - np.eye(130)
    assert abs(correlation).max() < 0.12  # 4.7 sigma at 2,000 rows, the largest of 8,385 pairs


def test_projection_keeps_angles() -> None:
    width = 4096
    same_half = project(np.array([1, 2, 3, 1, 2, 9], np.int32), np.array([3, 3]), np.ones(64), width, SEED)
    assert same_half[0] @ same_half[1] == pytest.approx(2 / 3, abs=0.05)


def test_null_becomes_the_mean() -> None:
    found = standardise(np.array([[6.0, np.nan]]), means=np.array([2.0, 1.0]), scales=np.array([4.0, 1.0]))
    np.testing.assert_array_equal(found, [[1.0, 0.0]])


@given(
    st.lists(
        st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=3, max_size=3),
        min_size=1,
        max_size=5,
    )
)
def test_every_finite_row_gets_unit_length_or_stays_zero(rows: list[list[float]]) -> None:
    found = unit_length(np.array(rows))
    lengths = np.linalg.norm(found, axis=1)
    np.testing.assert_allclose(lengths, [float(any(row)) for row in rows], atol=1e-12)
    assert (np.sign(found) * np.sign(rows) >= 0).all()


def test_a_sliced_batch_is_laid_out_group_by_group() -> None:
    layout = (
        FeatureGroup(name="text", start=0, stop=8),
        FeatureGroup(name="numeric", start=8, stop=10),
        FeatureGroup(name="image", start=10, stop=12),
        FeatureGroup(name="sound", start=12, stop=13),
    )
    learned = {
        "text.idf": np.ones(16),
        "numeric.means": np.array([1.0, 0]),
        "numeric.scales": np.array([2.0, 1]),
    }
    columns = {
        "text": pa.array([[1, 2], [3], []], pa.list_(pa.int32())),
        "categorical": pa.array([[], [], []], pa.list_(pa.int32())),
        "numbers": pa.array([[9.0, 9], [5, None], [1, 4]], pa.list_(pa.float64())),
        "vectors": pa.array([[1.0, 1, 1], [3, 4, -2], [0, 0, 0]], pa.list_(pa.float64())),
    }
    whole = vectors_of(columns, layout, learned, 3)
    np.testing.assert_allclose(whole[1, 8:], [2, 0, 0.6, 0.8, -1], atol=1e-7)
    np.testing.assert_allclose(whole[2, 8:], [0, 4, 0, 0, 0], atol=1e-7)
    assert not whole[2, :8].any()
    sliced = {name: column.slice(1) for name, column in columns.items()}
    np.testing.assert_array_equal(vectors_of(sliced, layout, learned, 3), whole[1:])

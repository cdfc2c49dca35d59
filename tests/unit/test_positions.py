"""Sums that show whether each position came once."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from walkbits.arrays.positions import each_once, sums_of


@given(st.integers(0, 200), st.integers(1, 5))
def test_each_once_in_any_order_and_parts(length: int, tasks: int) -> None:
    positions = np.random.default_rng(length).permutation(length).astype(np.int32)
    parts = [sums_of(part).tolist() for part in np.array_split(positions, tasks)]
    assert each_once(parts, length)
    assert not each_once(parts, length + 1)


@given(st.integers(2, 200), st.data())
def test_one_missing_doubled_or_swapped_is_seen(length: int, data: st.DataObject) -> None:
    gone = data.draw(st.integers(0, length - 1))
    other = data.draw(st.integers(0, length - 1).filter(lambda one: one != gone))
    positions = np.arange(length)
    assert not each_once([sums_of(np.delete(positions, gone)).tolist()], length)
    assert not each_once([sums_of(np.append(positions, gone)).tolist()], length)
    positions[gone] = other
    assert not each_once([sums_of(positions).tolist()], length)


def test_no_parts_are_no_positions() -> None:
    assert each_once([], 0)
    assert not each_once([], 1)


def test_squares_beyond_64_bits() -> None:
    """Five million nodes: the sum of squares is past 2^64."""
    halves = np.array_split(np.arange(5_000_000, dtype=np.int32), 2)
    assert each_once([sums_of(half).tolist() for half in halves], 5_000_000)

"""Whether tasks together saw each of 0, ..., n - 1 once, from three sums that each of them reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def sums_of(positions: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """How many positions, their sum and the sum of their squares, modulo 2^64: int64 [3], to be added up."""
    wide = positions.astype(np.int64)
    return np.array([len(wide), wide.sum(), (wide * wide).sum()])


def each_once(parts: Sequence[Sequence[int]], length: int) -> bool:
    """Whether the sums of all parts are those of 0, ..., length - 1."""
    n = length
    seen = [sum(one) % 2**64 for one in zip(*parts, strict=True)]
    return (seen or [0, 0, 0]) == [n, n * (n - 1) // 2 % 2**64, (n - 1) * n * (2 * n - 1) // 6 % 2**64]

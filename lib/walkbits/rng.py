"""Keyed draws: every random number is a hash of what it is for, never of when it is drawn.

    u64 = mix(mix(mix(mix(seed + G) ^ (node * G + 1)) ^ (walk * G + 2)) ^ (step * G + 3))

`mix` is the finaliser of splitmix64, G its golden-ratio increment, all modulo 2^64. The
same four numbers give the same draw in any process, partition or retry.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit, vectorize
from numpy.typing import ArrayLike, NDArray

from walkbits.types import U64

GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_M1: Final = np.uint64(0xBF58476D1CE4E5B9)
_M2: Final = np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31 = np.uint64(27), np.uint64(30), np.uint64(31)
_ONE, _TWO, _THREE = np.uint64(1), np.uint64(2), np.uint64(3)


@njit(cache=True)
def mix(z: Any) -> Any:
    """Finaliser of splitmix64 on uint64."""
    z = (z ^ (z >> _S30)) * _M1
    z = (z ^ (z >> _S27)) * _M2
    return z ^ (z >> _S31)


@njit(cache=True)
def start_key(seed: Any, node: Any) -> Any:
    """The part of a draw that all walks of one node share."""
    return mix(mix(seed + GOLDEN) ^ (node * GOLDEN + _ONE))


@njit(cache=True)
def walker_key(start: Any, walk: Any) -> Any:
    """The part of a draw that is fixed for one walk of the node behind `start_key`."""
    return mix(start ^ (walk * GOLDEN + _TWO))


@njit(cache=True)
def step_draw(walker: Any, step: Any) -> Any:
    """The draw of one step of the walk behind `walker_key`."""
    return mix(walker ^ (step * GOLDEN + _THREE))


@vectorize(cache=True)  # type: ignore[no-untyped-call, untyped-decorator]
def _draw(seed: Any, node: Any, walk: Any, step: Any) -> Any:
    return step_draw(walker_key(start_key(seed, node), walk), step)


def draw(seed: ArrayLike, node: ArrayLike, walk: ArrayLike = 0, step: ArrayLike = 0) -> U64:
    """uint64 draws for broadcast arrays of (seed, node, walk, step).

    Signed keys are taken by their two's-complement bits, so a Spark BIGINT hash and its
    uint64 view draw the same.

    Returns:
        uint64 array of the broadcast shape.
    """
    return np.asarray(_draw(_bits(seed), _bits(node), _bits(walk), _bits(step)))


def uniform(draws: U64) -> NDArray[np.float64]:
    """Draws as fp64 in [0, 1): the upper 53 bits."""
    return np.asarray((draws >> np.uint64(11)) * 2.0**-53, np.float64)


def _bits(value: ArrayLike) -> U64:
    array = np.asarray(value)
    if array.dtype == np.uint64:
        return array
    return array.astype(np.int64).view(np.uint64)

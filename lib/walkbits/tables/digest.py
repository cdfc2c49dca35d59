"""Digests of rows in Python, bit for bit what Spark's `xxhash64` gives.

So rows that tasks write themselves have the fingerprint that a re-read by Spark computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from walkbits.types import U64

_SEED: Final = np.uint64(42)
_P1: Final = np.uint64(0x9E3779B185EBCA87)
_P2: Final = np.uint64(0xC2B2AE3D27D4EB4F)
_P3: Final = np.uint64(0x165667B19E3779F9)
_P4: Final = np.uint64(0x85EBCA77C2B2AE63)
_P5: Final = np.uint64(0x27D4EB2F165667C5)
_LOW: Final = np.uint64(0xFFFFFFFF)


def row_digests(columns: Sequence[pa.Array]) -> U64:
    """`xxhash64(columns...)` of each row (XXH64, seeded with the hash of the columns before; seed 42).

    Args:
        columns: Equally long arrays of int32, int64, fp32, string, binary, or lists of int64 or fp32,
            without nulls.

    Returns:
        uint64 [rows], Spark's signed hashes modulo 2^64.
    """
    digests = np.full(len(columns[0]), _SEED)
    for column in columns:
        _add(column, digests)
    return digests


def _add(column: pa.Array, digests: U64) -> None:
    kind = column.type
    if pa.types.is_list(kind):
        values = _words(column.values)
        lists = _lists_of_longs if values.dtype == np.uint64 else _lists_of_ints
        lists(_offsets(column), values, digests)
    elif pa.types.is_string(kind) or pa.types.is_binary(kind):
        _bytes(_offsets(column), np.frombuffer(column.buffers()[2] or b"", np.uint8), digests)
    else:
        values = _words(column)
        (_longs if values.dtype == np.uint64 else _ints)(values, digests)


def _offsets(column: pa.Array) -> NDArray[np.int32]:
    return np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1]


def _words(column: pa.Array) -> NDArray[Any]:
    """The 32 or 64 bits of each value; of floats those that equal values share."""
    values: NDArray[Any] = column.to_numpy()
    if values.dtype == np.float32:
        return np.asarray(_float_bits(values))
    return values.view(np.uint32 if values.dtype == np.int32 else np.uint64)


@njit(nogil=True, cache=True)
def _float_bits(values: Any) -> Any:
    """Zeros lose their sign and all NaN are one, as in Spark."""
    bits = values.view(np.uint32).copy()
    for i in range(len(values)):
        if values[i] == 0:
            bits[i] = 0
        elif values[i] != values[i]:
            bits[i] = 0x7FC00000
    return bits


@njit(inline="always")
def _rotated(x: Any, by: int) -> Any:
    return (x << np.uint64(by)) | (x >> np.uint64(64 - by))


@njit(inline="always")
def _mixed(h: Any) -> Any:
    h = (h ^ (h >> np.uint64(33))) * _P2
    h = (h ^ (h >> np.uint64(29))) * _P3
    return h ^ (h >> np.uint64(32))


@njit(inline="always")
def _int(word: Any, seed: Any) -> Any:
    h = (seed + _P5 + np.uint64(4)) ^ (np.uint64(word) * _P1)
    return _mixed(_rotated(h, 23) * _P2 + _P3)


@njit(inline="always")
def _long(word: Any, seed: Any) -> Any:
    h = (seed + _P5 + np.uint64(8)) ^ (_rotated(word * _P2, 31) * _P1)
    return _mixed(_rotated(h, 27) * _P1 + _P4)


@njit(nogil=True, cache=True)
def _ints(values: Any, digests: Any) -> None:
    for i in range(len(digests)):
        digests[i] = _int(values[i], digests[i])


@njit(nogil=True, cache=True)
def _longs(values: Any, digests: Any) -> None:
    for i in range(len(digests)):
        digests[i] = _long(values[i], digests[i])


@njit(nogil=True, cache=True)
def _lists_of_ints(offsets: Any, values: Any, digests: Any) -> None:
    i, rows = 0, len(digests)
    # A list is one chain of products, each of which waits for the one before: eight lists at a time do not.
    while i + 8 <= rows and _equal_sizes(offsets, i):
        first, size = offsets[i], offsets[i + 1] - offsets[i]
        for k in range(size):
            for j in range(8):
                digests[i + j] = _int(values[first + j * size + k], digests[i + j])
        i += 8
    while i < rows:
        for e in range(offsets[i], offsets[i + 1]):
            digests[i] = _int(values[e], digests[i])
        i += 1


@njit(inline="always")
def _equal_sizes(offsets: Any, first: int) -> Any:
    size, equal = offsets[first + 1] - offsets[first], True
    for i in range(first + 1, first + 8):
        equal &= offsets[i + 1] - offsets[i] == size
    return equal


@njit(nogil=True, cache=True)
def _lists_of_longs(offsets: Any, values: Any, digests: Any) -> None:
    for i in range(len(digests)):
        for e in range(offsets[i], offsets[i + 1]):
            digests[i] = _long(values[e], digests[i])


@njit(inline="always")
def _round(lane: Any, word: Any) -> Any:
    return _rotated(lane + word * _P2, 31) * _P1


@njit(inline="always")
def _merged(h: Any, lane: Any) -> Any:
    return (h ^ _round(np.uint64(0), lane)) * _P1 + _P4


@njit(inline="always")
def _word(data: Any, at: Any, size: int) -> Any:
    word = np.uint64(0)
    for k in range(size):
        word |= np.uint64(data[at + k]) << np.uint64(8 * k)
    return word


@njit(nogil=True, cache=True)
def _bytes(offsets: Any, data: Any, digests: Any) -> None:
    for i in range(len(digests)):
        at, end, seed = np.int64(offsets[i]), np.int64(offsets[i + 1]), digests[i]
        length = end - at
        if length >= 32:
            a, b, c, d = seed + _P1 + _P2, seed + _P2, seed, seed - _P1
            while at + 32 <= end:
                a = _round(a, _word(data, at, 8))
                b = _round(b, _word(data, at + 8, 8))
                c = _round(c, _word(data, at + 16, 8))
                d = _round(d, _word(data, at + 24, 8))
                at += 32
            h = _rotated(a, 1) + _rotated(b, 7) + _rotated(c, 12) + _rotated(d, 18)
            h = _merged(_merged(_merged(_merged(h, a), b), c), d)
        else:
            h = seed + _P5
        h += np.uint64(length)
        while at + 8 <= end:
            h = _rotated(h ^ _round(np.uint64(0), _word(data, at, 8)), 27) * _P1 + _P4
            at += 8
        if at + 4 <= end:
            h = _rotated(h ^ (_word(data, at, 4) * _P1), 23) * _P2 + _P3
            at += 4
        while at < end:
            h = _rotated(h ^ (np.uint64(data[at]) * _P5), 11) * _P1
            at += 1
        digests[i] = _mixed(h)

"""The digest against plain integers; against Spark's own in tests/delta/test_files.py."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from walkbits.arrays.vectors import float_lists
from walkbits.tables.digest import row_digests

P1, P2, P3, P4, P5 = (
    11400714785074694791,
    14029467366897019727,
    1609587929392839161,
    9650029242287828579,
    2870177450012600261,
)


def cut(x: int) -> int:
    return x % 2**64


def left(x: int, by: int) -> int:
    return cut(x << by) | x >> (64 - by)


def xxh64(data: bytes, seed: int) -> int:
    """The specification of XXH64, line by line."""

    def turn(lane: int, word: int) -> int:
        return cut(left(cut(lane + word * P2), 31) * P1)

    words = [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data) - 7, 8)]
    h, stripes = cut(seed + P5), len(data) // 32
    if stripes:
        lanes = [cut(seed + P1 + P2), cut(seed + P2), seed, cut(seed - P1)]
        for at in range(0, 4 * stripes, 4):
            lanes = [turn(lane, word) for lane, word in zip(lanes, words[at : at + 4], strict=True)]
        h = cut(sum(left(lane, by) for lane, by in zip(lanes, (1, 7, 12, 18), strict=True)))
        for lane in lanes:
            h = cut((h ^ turn(0, lane)) * P1 + P4)
    h = cut(h + len(data))
    for word in words[4 * stripes :]:
        h = cut(left(h ^ turn(0, word), 27) * P1 + P4)
    rest = data[8 * len(words) :]
    if len(rest) >= 4:
        h = cut(left(h ^ cut(int.from_bytes(rest[:4], "little") * P1), 23) * P2 + P3)
        rest = rest[4:]
    for byte in rest:
        h = cut(left(h ^ cut(byte * P5), 11) * P1)
    h = cut((h ^ h >> 33) * P2)
    h = cut((h ^ h >> 29) * P3)
    return h ^ h >> 32


def test_the_reference_knows_a_published_value() -> None:
    assert xxh64(b"", 0) == 0xEF46DB3751D8E999
    assert xxh64(b"abc", 0) == 0x44BC2CF5AD770999


@pytest.mark.parametrize("size", [0, 1, 3, 4, 7, 8, 12, 31, 32, 33, 63, 64, 100])
def test_texts_and_bytes_of_any_length(size: int) -> None:
    texts = ["x" * size, "".join(chr(33 + k % 90) for k in range(size)), ""]
    wanted = [xxh64(text.encode(), 42) for text in texts]
    assert row_digests([pa.array(texts)]).tolist() == wanted
    assert row_digests([pa.array([text.encode() for text in texts])]).tolist() == wanted


def test_numbers_are_hashed_as_their_bytes_and_columns_seed_the_next() -> None:
    longs = np.array([0, -1, 2**62, -(2**63)])
    texts = ["", "a", "b" * 40, "ab"]
    wanted = [
        xxh64(text.encode(), xxh64(int(long).to_bytes(8, "little", signed=True), 42))
        for long, text in zip(longs, texts, strict=True)
    ]
    assert row_digests([pa.array(longs), pa.array(texts)]).tolist() == wanted


def test_a_list_is_hashed_value_by_value_whatever_lists_are_beside_it() -> None:
    sizes = [3] * 11 + [0, 1, 5, 2, 3, 4, 3, 3, 6] + [2] * 20
    rng = np.random.default_rng(0)
    lists = [rng.standard_normal(size).astype(np.float32).tolist() for size in sizes]
    column = pa.array(lists, pa.list_(pa.float32()))
    alone = [int(row_digests([column.slice(at, 1)])[0]) for at in range(len(lists))]
    assert row_digests([column]).tolist() == alone
    assert row_digests([column.slice(5, 20)]).tolist() == alone[5:25]
    assert len(set(alone)) == len(lists)
    assert alone[11] == 42  # an empty list leaves the seed


def test_equal_floats_have_equal_digests() -> None:
    zeros = float_lists(np.array([[0.0], [-0.0]], np.float32))
    assert len(set(row_digests([zeros]).tolist())) == 1
    nans = np.array([0x7FC00000, 0x7F800001, 0xFFFFFFFF], np.uint32).view(np.float32)
    assert len(set(row_digests([pa.array(nans)]).tolist())) == 1

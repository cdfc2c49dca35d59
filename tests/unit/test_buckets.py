"""Bands, query-directed probes and the weak AND, each against a few lines of plain Python."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from walkbits.errors import ConfigError
from walkbits.index.buckets import buckets_of, probe_buckets, weak_and
from walkbits.index.codes import pack_bits, unpack_bits


def coordinates(rows: int, bits: int) -> np.ndarray:
    return np.random.default_rng(11).standard_normal((rows, bits))


@pytest.mark.parametrize(("bits", "band_bits"), [(64, 8), (128, 16), (192, 12), (320, 20), (64, 32)])
def test_a_bucket_is_the_bands_bits_as_a_number(bits: int, band_bits: int) -> None:
    code = pack_bits(coordinates(20, bits))
    expected = [
        [sum(int(bit) << place for place, bit in enumerate(band)) for band in row.reshape(-1, band_bits)]
        for row in unpack_bits(code)
    ]
    assert buckets_of(code, band_bits).tolist() == expected


@pytest.mark.parametrize("band_bits", [4, 8])
@pytest.mark.parametrize("probes", [1, 2, 3, 5, 11, 16])
def test_probes_are_the_cheapest_flips(band_bits: int, probes: int) -> None:
    y = coordinates(30, 64)
    found = probe_buckets(y, band_bits, probes)
    for query, band in itertools.product(range(30), range(64 // band_bits)):
        part = y[query, band * band_bits : (band + 1) * band_bits]
        own = sum(1 << bit for bit in range(band_bits) if part[bit] > 0)
        cost = {
            own ^ flipped: sum(part[bit] ** 2 for bit in range(band_bits) if flipped >> bit & 1)
            for flipped in range(1 << band_bits)
        }
        assert found[query, band].tolist() == sorted(cost, key=cost.__getitem__)[:probes]


def test_three_probes_are_the_own_bucket_and_the_two_least_confident_bits() -> None:
    y = np.array([[3.0, -0.2, 0.1, -4.0] * 16])
    own = 0b0101
    assert probe_buckets(y, 4, 3)[0, 0].tolist() == [own, own ^ 0b0100, own ^ 0b0010]


def test_there_are_never_more_probes_than_buckets() -> None:
    found = probe_buckets(coordinates(3, 64), 4, 40)
    assert np.sort(found, axis=2).tolist() == np.broadcast_to(np.arange(16), (3, 16, 16)).tolist()


@pytest.mark.parametrize("min_bands", [1, 2, 4])
def test_weak_and_counts_matching_bands(min_bands: int) -> None:
    items = coordinates(300, 64)
    queries = items[:20] + 0.3 * coordinates(20, 64)
    buckets = buckets_of(pack_bits(items), 8)
    probed = probe_buckets(queries, 8, 3)
    indptr, found = weak_and(probed, buckets, min_bands)
    for query in range(20):
        matches = [sum(bucket in probed[query, band] for band, bucket in enumerate(row)) for row in buckets]
        expected = [item for item, count in enumerate(matches) if count >= min_bands]
        assert found[indptr[query] : indptr[query + 1]].tolist() == expected
    assert len(found) > 0


def test_bands_must_divide_the_code() -> None:
    with pytest.raises(ConfigError, match="band_bits must divide"):
        buckets_of(pack_bits(coordinates(2, 64)), 12)

"""LSH buckets bit by bit, for the tests of the SQL that cuts them."""

from __future__ import annotations

import math

import numpy as np
from walkbits.index.codes import unpack_bits
from walkbits.types import I64


def buckets_of(code: I64, band_bits: int) -> I64:
    """Buckets int64 [n, bands] of packed codes int64 [n, words]: each band's bits, the first least significant."""
    return np.array(
        [
            [sum(int(bit) << place for place, bit in enumerate(band)) for band in row.reshape(-1, band_bits)]
            for row in unpack_bits(code)
        ]
    )


def weak_and(
    query: int, buckets: I64, margins: np.ndarray, band_bits: int, theta: float, probes: int
) -> dict[int, tuple[int, float]]:
    """Candidates of an item by weighted buckets: item -> (matching bands, weight), plain loops.

    Args:
        buckets: int [n, bands].
        margins: [bands * band_bits], distance of each of the query's coordinates from 0.
    """
    weights: dict[int, list[float]] = {}
    for band in range(buckets.shape[1]):
        own = int(buckets[query, band])
        unsure = np.argsort(margins[band * band_bits : (band + 1) * band_bits], kind="stable")[:probes]
        for bucket in [own, *(own ^ (1 << int(place)) for place in unsure)]:
            members = np.flatnonzero(buckets[:, band] == bucket).tolist()
            for item in members:
                weights.setdefault(item, []).append(round(math.log(len(buckets) / len(members)), 6))
    found = {item: (len(own), math.fsum(own)) for item, own in weights.items() if item != query}
    return {item: one for item, one in found.items() if one[1] >= theta}

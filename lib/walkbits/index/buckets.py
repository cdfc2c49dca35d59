"""LSH buckets: bands of a code, their probes, and the weak AND over them (PinSage, section 3.5).

Band k of a code holds its bits k * band_bits to (k + 1) * band_bits - 1; the bucket is those
bits read as a number, the first one least significant. A candidate must share a bucket with
the query in at least `min_bands` bands.
"""

from __future__ import annotations

import itertools
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from walkbits import schemas, settings
from walkbits.errors import ConfigError
from walkbits.index.codes import WORD_BITS, unpack_bits
from walkbits.types import F64, I64

Scalar = TypeVar("Scalar", bound=np.generic)


def buckets_from_codes(codes: DataFrame, index: settings.Index) -> DataFrame:
    """One row per item and band; pure Spark SQL, no Python worker.

    Args:
        codes: code_bits, node_type, node_id, external_id, code.
        index: `lsh_bits` names the width that bands are cut from.

    Returns:
        band INT, bucket BIGINT >= 0, node_id, external_id.
    """
    bands = [_band_column(band, index.lsh.band_bits) for band in range(index.lsh_bits // index.lsh.band_bits)]
    is_cut = (F.col("code_bits") == index.lsh_bits) & (F.col("node_type") == schemas.ITEM)
    return codes.where(is_cut).select(
        F.posexplode(F.array(*bands)).alias("band", "bucket"), "node_id", "external_id"
    )


def _band_column(band: int, band_bits: int) -> Column:
    """The band's bits of `code` as a number; a band may straddle two words."""
    word, shift = divmod(band * band_bits, WORD_BITS)
    bits = F.shiftrightunsigned(F.col("code")[word], shift)
    if shift + band_bits > WORD_BITS:
        bits = bits.bitwiseOR(F.shiftleft(F.col("code")[word + 1], WORD_BITS - shift))
    return bits.bitwiseAND(F.lit((1 << band_bits) - 1).cast("bigint"))


def buckets_of(code: I64, band_bits: int) -> I64:
    """Buckets of packed codes: int64 [n, bands] from int64 words [n, words].

    Raises:
        ConfigError: the code's width is not a multiple of `band_bits`.
    """
    return _numbers(_by_band(unpack_bits(code), band_bits))


def probe_buckets(projected: F64, band_bits: int, probes: int) -> I64:
    """Query-directed probes: each band's own bucket, then the likeliest ones beside it.

    A bucket that differs from the query's own in a set S of bits is the likelier to hold a near
    neighbor the smaller sum over S of y_b^2 is (multi-probe LSH, Lv et al., VLDB 2007): bits near
    zero are flipped first.

    Args:
        projected: fp64 [q, code_bits], the coordinates whose signs are the query's code.
        band_bits: bits per band.
        probes: buckets per band, at most 2^band_bits of which exist.

    Returns:
        int64 [q, bands, min(probes, 2^band_bits)], all different within a band.

    Raises:
        ConfigError: code_bits is not a multiple of `band_bits`.
    """
    y = _by_band(projected, band_bits)  # [q, bands, band_bits]
    order = np.argsort(np.abs(y), axis=2, kind="stable")
    cost = np.take_along_axis(np.square(y), order, axis=2)
    flips = _cheap_flips(band_bits, probes)  # [sets, band_bits], over bits in order of confidence
    ranked = np.argsort(cost @ flips.T, axis=2, kind="stable")[:, :, :probes]  # [q, bands, probes]
    # flips[ranked] marks positions in `order`; scatter them back to the bits of the band.
    bits = np.zeros((*ranked.shape, band_bits), dtype=np.bool_)
    np.put_along_axis(bits, np.broadcast_to(order[:, :, None, :], bits.shape), flips[ranked] > 0, axis=3)
    return _numbers(bits ^ (y > 0)[:, :, None, :])


def _cheap_flips(band_bits: int, probes: int) -> F64:
    """Flip sets that can be among the `probes` cheapest when bits are sorted by cost: 0/1 [sets, band_bits].

    A set with s bits costs no less than each of its 2^s subsets, and one that holds the bit of
    rank r no less than each of r + 1 sets that have a cheaper bit, or none, in its place.
    """
    ranks = range(min(band_bits, probes - 1))
    sizes = range(min(band_bits, probes.bit_length() - 1) + 1)
    sets = [chosen for size in sizes for chosen in itertools.combinations(ranks, size)]
    flips = np.zeros((len(sets), band_bits))
    for row, chosen in enumerate(sets):
        flips[row, list(chosen)] = 1
    return flips


def weak_and(probed: I64, buckets: I64, min_bands: int) -> tuple[I64, I64]:
    """Candidates of each query: items that share a probed bucket in at least `min_bands` bands.

    Args:
        probed: int64 [q, bands, probes] from `probe_buckets` (or `buckets_of` with an axis added).
        buckets: int64 [n, bands] of the items.
        min_bands: theta; 1 is OR, the number of bands is AND.

    Returns:
        indptr int64 [q + 1] and items int64 [indptr[-1]], ascending within a query.
    """
    order = np.argsort(buckets, axis=0, kind="stable")  # per band: items by bucket
    grouped = np.take_along_axis(buckets, order, axis=0)
    bands = range(buckets.shape[1])
    start = np.stack([np.searchsorted(grouped[:, b], probed[:, b], "left") for b in bands], axis=1)
    stop = np.stack([np.searchsorted(grouped[:, b], probed[:, b], "right") for b in bands], axis=1)
    found = []
    for query in range(len(probed)):
        hits = [
            order[begin:end, b]
            for b in bands
            for begin, end in zip(start[query, b], stop[query, b], strict=True)
        ]
        matches = np.bincount(np.concatenate(hits), minlength=len(buckets))
        found.append(np.flatnonzero(matches >= min_bands))
    indptr = np.cumsum([0, *(len(items) for items in found)], dtype=np.int64)
    return indptr, np.concatenate([np.empty(0, np.int64), *found])


def _by_band(x: NDArray[Scalar], band_bits: int) -> NDArray[Scalar]:
    """[n, code_bits] cut into [n, bands, band_bits]."""
    if x.shape[1] % band_bits:
        raise ConfigError(
            f"lsh.band_bits must divide the code's {x.shape[1]} bits, got {band_bits}; use 8 or 16"
        )
    return x.reshape(len(x), -1, band_bits)


def _numbers(bits: NDArray[np.bool_]) -> I64:
    """Bits [..., band_bits], first least significant, as int64 numbers [...]."""
    numbers: I64 = bits @ (np.int64(1) << np.arange(bits.shape[-1], dtype=np.int64))
    return numbers

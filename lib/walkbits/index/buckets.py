"""LSH buckets: bands of a code (PinSage, section 3.5).

Band k of a code holds its bits k * band_bits to (k + 1) * band_bits - 1; the bucket is those
bits read as a number, the first one least significant. sql/queries/weak_and_candidates.sql
joins them: the buckets that a candidate shares with the query, or that differ from the query's in one
unsure bit, must weigh enough together. A bucket of few items weighs more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from walkbits import schemas, settings
from walkbits.index.codes import WORD_BITS, Coder


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


def clustered(buckets: DataFrame) -> DataFrame:
    """Buckets in order: each file holds a stretch of them, so that a lookup passes over the others."""
    return buckets.repartitionByRange("band", "bucket").sortWithinPartitions("band", "bucket", "node_id")


def direction_rows(coder: Coder, embedding_size: int, index: settings.Index) -> list[dict[str, Any]]:
    """Rows of table `code_directions`.

    Args:
        coder: of the run's codes.
    """
    rotated_by = np.eye(embedding_size, dtype=np.float32) if coder.rotated_by is None else coder.rotated_by
    rows: list[dict[str, Any]] = []
    for bit, direction in enumerate(rotated_by[: max(index.code_bits)].tolist()):
        band, place = divmod(bit, index.lsh.band_bits) if bit < index.lsh_bits else (None, None)
        rows.append({"bit": bit, "band": band, "place": place, "direction": direction})
    return rows


def _band_column(band: int, band_bits: int) -> Column:
    """The band's bits of `code` as a number; a band may straddle two words."""
    word, shift = divmod(band * band_bits, WORD_BITS)
    bits = F.shiftrightunsigned(F.col("code")[word], shift)
    if shift + band_bits > WORD_BITS:
        bits = bits.bitwiseOR(F.shiftleft(F.col("code")[word + 1], WORD_BITS - shift))
    return bits.bitwiseAND(F.lit((1 << band_bits) - 1).cast("bigint"))

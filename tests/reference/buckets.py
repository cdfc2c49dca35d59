"""LSH buckets bit by bit, for the tests of the SQL that cuts them."""

from __future__ import annotations

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

"""The fingerprint of a set of rows: how many, and two sums over their digests that no order changes.

Spark computes it of frames; tasks compute the same of the rows they write, with the digests of
tables.digest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from walkbits.schemas import RUN_ID, Table

DIGEST: Final = "_digest"
"""Column that holds `row_digest` while it is aggregated."""


def hashed_columns(table: Table) -> list[str]:
    """All but the run id, so that two runs with the same rows have the same fingerprint."""
    return [name for name in table.names if name != RUN_ID.name]


def row_digest(table: Table) -> Column:
    """A row's hash."""
    return F.xxhash64(*[F.col(name) for name in hashed_columns(table)])


def fingerprint_columns() -> list[Column]:
    """Aggregates over digests that identify a set of rows, whatever their order.

    The sum beside the xor makes pairs of equal rows count.
    """
    digest = F.col(DIGEST)
    return [
        F.count(F.lit(1)).alias("rows"),
        F.bit_xor(digest).alias("xor"),
        F.sum(digest.bitwiseAND(F.lit(0xFFFFFFFF))).alias("sum"),
    ]


def fingerprints_of(frames: Sequence[tuple[Table, DataFrame]]) -> list[tuple[int, str]]:
    """Rows and checksum of frames of the tables' columns; one query reads them all, side by side."""
    if not frames:
        return []
    parts = [
        frame.select(F.lit(number).alias("frame"), row_digest(table).alias(DIGEST))
        for number, (table, frame) in enumerate(frames)
    ]
    rows = reduce(DataFrame.union, parts).groupBy("frame").agg(*fingerprint_columns()).collect()
    found = {row["frame"]: (int(row["rows"]), fingerprint_text(row.asDict())) for row in rows}
    nothing = (0, fingerprint_text({"xor": 0, "sum": 0}))
    return [found.get(number, nothing) for number in range(len(frames))]


def fingerprint_text(measured: Mapping[str, Any]) -> str:
    """The aggregates of `fingerprint_columns` as 32 hex digits."""
    xor, total = measured["xor"] or 0, measured["sum"] or 0
    return f"{int(xor) & 0xFFFFFFFFFFFFFFFF:016x}{int(total) & 0xFFFFFFFFFFFFFFFF:016x}"


class Digests(NamedTuple):
    """What `fingerprint_columns` makes of the digests of some rows.

    Attributes:
        xor: Of the digests, as int64.
        sum: Of their lower halves.
    """

    xor: int = 0
    sum: int = 0

    def plus(self, digests: NDArray[np.uint64]) -> Digests:
        """With more rows, of which there are some."""
        more = int(np.bitwise_xor.reduce(digests).view(np.int64))
        return Digests(self.xor ^ more, self.sum + int((digests & np.uint64(0xFFFFFFFF)).sum()))


def combined_text(parts: Iterable[Digests]) -> str:
    """`fingerprint_text` of the rows of all parts."""
    whole = reduce(lambda a, b: Digests(a.xor ^ b.xor, a.sum + b.sum), parts, Digests())
    return fingerprint_text(whole._asdict())

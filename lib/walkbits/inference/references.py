"""Who references a source: how often, and from which destination blocks; and so who is cached.

Targets are cut into `num_blocks` ranges of indices. A file int32 [num_sources * words, 2] holds
for each source `words = ceil(num_blocks / 32)` rows of (references, bits of the blocks).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from pyspark.sql import Column
from pyspark.sql import functions as F

from walkbits.arrays.mapped import ArrayWriter, create_matrix, open_matrix
from walkbits.arrays.places import Place
from walkbits.arrays.vectors import read_lists
from walkbits.tables.rows import Batches
from walkbits.types import I32, I64

_AT_ONCE: Final = 1 << 22
"""References that a task sorts at once, and sources that are ranked at once."""


def words_of(num_blocks: int) -> int:
    """Rows per source."""
    return -(-num_blocks // 32)


def block_of(node: str, num_blocks: int, targets: int) -> Column:
    """The destination block of a target, as `CountReferences` has it: INT, 0 to num_blocks - 1."""
    return F.expr(f"CAST(CAST({node} AS BIGINT) * {num_blocks} DIV {targets} AS INT)")


@dataclass(frozen=True)
class CountReferences:
    """Neighborhoods to partial counts; Spark sums them."""

    num_blocks: int
    targets: int

    schema = "place bigint, references int, blocks int"

    def run(self, batches: Batches) -> Batches:
        """(node, neighbors) -> (place, references, blocks); a place may come several times."""
        keys: list[I64] = []
        held = 0
        for batch in batches:
            indptr, neighbors = read_lists(batch.column(1))
            blocks = batch.column(0).to_numpy().astype(np.int64) * self.num_blocks // self.targets
            keys.append(neighbors.astype(np.int64) * self.num_blocks + np.repeat(blocks, np.diff(indptr)))
            held += len(neighbors)
            if held >= _AT_ONCE:
                yield self._counted(keys)
                keys, held = [], 0
        if held:
            yield self._counted(keys)

    def _counted(self, keys: list[I64]) -> pa.RecordBatch:
        pairs, counts = np.unique(np.concatenate(keys), return_counts=True)
        sources, blocks = np.divmod(pairs, self.num_blocks)
        places = sources * words_of(self.num_blocks) + blocks // 32
        first = np.flatnonzero(np.diff(places, prepend=-1))
        bits = np.left_shift(np.uint32(1), (blocks % 32).astype(np.uint32))
        return pa.RecordBatch.from_arrays(
            [
                pa.array(places[first]),
                pa.array(np.add.reduceat(counts, first).astype(np.int32)),
                pa.array(np.bitwise_or.reduceat(bits, first).view(np.int32)),
            ],
            names=["place", "references", "blocks"],
        )


@dataclass(frozen=True)
class LandReferences:
    """Summed counts into the file."""

    path: Place

    def run(self, batches: Batches) -> Batches:
        """(place, references, blocks) -> one row (rows)."""
        rows = 0
        with ArrayWriter(self.path) as file:
            for batch in batches:
                both = np.stack([batch.column(1).to_numpy(), batch.column(2).to_numpy()], axis=1)
                file.write(batch.column(0).to_numpy(), both)
                rows += batch.num_rows
        yield pa.RecordBatch.from_pydict({"rows": [rows]})


class References:
    """The file, mapped."""

    def __init__(self, path: Place, sources: int) -> None:
        rows: I32 = np.asarray(open_matrix(path), np.int32)  # in place: the file is int32
        self._rows = rows.reshape(sources, -1, 2)  # [sources, words, 2]

    def counts(self, nodes: I32 | slice) -> I64:
        """References to some sources: int64 [n]."""
        return np.asarray(self._rows[nodes, :, 0].sum(axis=1, dtype=np.int64))

    def blocks(self, nodes: I32) -> tuple[I32, I32]:
        """(offsets int32 [n + 1], blocks int32 [offsets[-1]]): who must receive some sources."""
        bits = np.ascontiguousarray(self._rows[nodes, :, 1]).astype("<i4").view(np.uint8)
        row, block = np.nonzero(np.unpackbits(bits, axis=1, bitorder="little"))
        offsets = np.searchsorted(row, np.arange(len(nodes) + 1))
        return offsets.astype(np.int32), block.astype(np.int32)


def rank(references: References, sources: int, cached_rows: int, path: Place) -> None:
    """Give the most referenced sources a row of the cache: count descending, then index ascending.

    Reads the counts in pieces, so memory does not grow with the graph.

    Args:
        path: New file int32 [sources, 1]: row of the cache, -1 where a source is not cached.
    """
    pieces = [slice(low, min(low + _AT_ONCE, sources)) for low in range(0, sources, _AT_ONCE)]
    histogram: Counter[int] = Counter()
    for piece in pieces:
        counts, times = np.unique(references.counts(piece), return_counts=True)
        histogram.update(dict(zip(counts.tolist(), times.tolist(), strict=True)))
    least, ties = 0, cached_rows
    for least in sorted(histogram, reverse=True):
        if ties <= histogram[least]:
            break
        ties -= histogram[least]
    create_matrix(path, sources, 1, "<i4")
    given = 0
    with ArrayWriter(path) as file:
        for piece in pieces:
            counts = references.counts(piece)
            tied = counts == least
            cached = (counts > least) | (tied & (np.cumsum(tied) <= ties))
            ties -= min(ties, int(tied.sum()))
            rows = np.where(cached, given + np.cumsum(cached) - 1, -1)  # [piece]
            given += int(cached.sum())
            file.write(np.arange(piece.start, piece.stop), rows.astype(np.int32)[:, None])


def open_slots(path: Place) -> I32:
    """The file of `rank`, mapped: int32 [sources]."""
    return np.asarray(open_matrix(path)[:, 0], dtype=np.int32)

"""What every task of the engine knows and does: vectors in, blocks of one fixed height.

Nothing that tasks import loads torch or talks to Spark, but for the count of model rows: a
worker that only infers starts in a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from pyspark import Broadcast

from walkbits.arrays.vectors import read_vectors
from walkbits.inference.proof import ModelRows
from walkbits.tables.rows import Batches
from walkbits.types import F32, I32, I64

TILE: Final = 48
"""BLAS sums a row in an order that depends on its place in a tile of rows (of 12 with AVX2, of 1 with
AVX-512). A multiple of all common tiles: nodes keep their place modulo TILE, and so their bits,
whatever rows are beside them."""


@dataclass(frozen=True)
class Task:
    """What every task knows.

    Attributes:
        weights: The model, broadcast as plain arrays.
        block_size: Rows of one GEMM, made a multiple of TILE.
        model_rows: The proof.
    """

    weights: Broadcast[dict[str, F32]]
    block_size: int
    model_rows: ModelRows


@dataclass(frozen=True)
class Block:
    """Some rows of a batch and their places in a block of fixed height.

    Attributes:
        nodes: int32 [n].
        rows: int64 [n], which of the batch; a slice where they follow each other.
        places: int64 [n], below height; a slice likewise.
    """

    nodes: I32
    rows: I32 | I64 | slice
    places: I32 | I64 | slice
    height: int

    def spread(self, *columns: F32) -> F32:
        """The block's rows of fp32 [rows of the batch, width] at their places, zeros between.

        Several arrays are stored side by side: [height, sum of their widths].
        """
        block = np.empty((self.height, sum(one.shape[1] for one in columns)), np.float32)
        if isinstance(self.places, slice):
            block[: self.places.start] = block[self.places.stop :] = 0
        else:
            block[:] = 0
        first = 0
        for one in columns:
            block[self.places, first : first + one.shape[1]] = one[self.rows]
            first += one.shape[1]
        return block

    def gather(self, block: F32) -> F32:
        """The inverse of `spread`: [height, width] -> [n, width]."""
        return block[self.places]


def blocks_of(nodes: I32, block_size: int) -> Iterator[Block]:
    """Cut a batch in blocks of block_size, made whole tiles, each node at a place congruent to it."""
    height = -(-block_size // TILE) * TILE
    residues = nodes % TILE
    counts = np.bincount(residues, minlength=TILE)
    # the k-th of the nodes with one residue goes to the k-th tile
    tiles = np.empty(len(nodes), np.int64)
    firsts = np.cumsum(counts) - counts
    tiles[np.argsort(residues, kind="stable")] = np.arange(len(nodes)) - np.repeat(firsts, counts)
    places = tiles * TILE + residues
    for low in range(0, int(places.max(initial=-1)) + 1, height):
        rows = np.flatnonzero((places >= low) & (places < low + height))
        yield Block(nodes[rows], span(rows), span(places[rows] - low), height)


def span(positions: I32 | I64) -> I32 | I64 | slice:
    """Consecutive positions, of which there are some, as a slice: it copies whole stretches, or nothing."""
    first = int(positions[0])
    follow = int(positions[-1]) - first + 1 == len(positions) and (np.diff(positions) == 1).all()
    return slice(first, first + len(positions)) if follow else positions


def in_blocks(nodes: I32, block_size: int, compute: Callable[[Block], F32]) -> F32:
    """What `compute` makes of each block's rows, [n, width] in the order of the batch's nodes, n > 0."""
    parts = [(block, compute(block)) for block in blocks_of(nodes, block_size)]
    out = np.empty((len(nodes), parts[0][1].shape[1]), np.float32)
    for block, part in parts:
        out[block.rows] = part
    return out


def vectors(batches: Batches, width: int) -> Iterator[tuple[I32, F32]]:
    """(node, vector) batches with rows as (nodes int32 [n], fp32 [n, width])."""
    for batch in batches:
        if batch.num_rows:
            yield batch.column(0).cast(pa.int32()).to_numpy(), read_vectors(batch.column(1), width)

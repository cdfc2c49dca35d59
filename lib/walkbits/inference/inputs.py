"""Tasks that make h^0 from the model's tables of ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from walkbits.arrays.mapped import open_array, open_matrix
from walkbits.arrays.places import Place
from walkbits.arrays.vectors import binary_array
from walkbits.inference.tasks import Block, Task, in_blocks, vectors
from walkbits.models.card import Table
from walkbits.network import arithmetic
from walkbits.network.declaration import Dense
from walkbits.tables.rows import Batches
from walkbits.types import F32, I32


@dataclass(frozen=True)
class LookUp:
    """The row of each node in a table of ids, zeros where the table does not know its key."""

    table: Table
    width: int

    schema: ClassVar[str] = "node int, vector binary"

    def run(self, batches: Batches) -> Batches:
        """(node, node_key) -> (node, vector)."""
        known, rows = open_array(self.table.keys), open_matrix(self.table.rows)
        for batch in batches:
            keys = batch.column(1).to_numpy()
            at = np.minimum(np.searchsorted(known, keys), len(known) - 1)  # [n]
            found = known[at] == keys
            out = np.zeros((len(keys), self.width), np.float32)
            out[found] = rows[at[found]]
            yield _rows(batch.column(0).cast(pa.int32()), out)


@dataclass(frozen=True)
class AddTower(Task):
    """The nodes' rows of ids plus the tower of their features.

    Attributes:
        ids: Matrix of the rows of all nodes.
        width: Columns of the features.
    """

    ids: Place
    width: int
    tower: tuple[Dense, ...]

    def run(self, batches: Batches) -> Batches:
        """(node, features) -> (node, vector)."""
        ids = open_matrix(self.ids)
        for nodes, features in vectors(batches, self.width):
            yield _rows(pa.array(nodes), ids[nodes] + self._of(nodes, features))

    def _of(self, nodes: I32, features: F32) -> F32:
        def compute(block: Block) -> F32:
            x = block.spread(features)  # [height, width]
            for dense in self.tower:
                x = arithmetic.dense(x, dense, self.weights.value)
            return block.gather(x)

        return in_blocks(nodes, self.block_size, compute)


def _rows(nodes: pa.Array, vectors: F32) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([nodes, binary_array(vectors)], names=["node", "vector"])

"""Tasks that make h^0 from the model's tables of ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from walkbits.arrays.mapped import create_matrix, open_array, open_matrix
from walkbits.arrays.places import Place
from walkbits.arrays.vectors import binary_array
from walkbits.inference.landing import Land, land
from walkbits.inference.tasks import Block, Task, in_blocks, vectors
from walkbits.models.card import Table
from walkbits.network import arithmetic
from walkbits.network.declaration import Dense, Input
from walkbits.tables.rows import Batches, Rows
from walkbits.types import F32, I32, NodeType


def input_rows(
    node_type: NodeType,
    declared: Input,
    table: Table | None,
    keys: Rows | None,
    features: Rows | None,
    num_nodes: int,
    scratch: Place,
    common: Mapping[str, Any],
) -> Rows:
    """h^0 of a node type, (node, vector BINARY): its features; or a row of the model's table, by key, and
    with a tower the tower's output added.

    Args:
        table: The model's rows of ids, where the input has ids.
        keys: (node, node_key) of all nodes, likewise.
        features: (node, features) of all nodes, where the input has features.
        scratch: Place for a matrix of the rows of ids.
        common: Arguments of `Task`.
    """
    if declared.source == "features":
        assert features is not None
        return features
    assert table is not None, "a model with ids needs its table"
    assert keys is not None, "a model with ids needs the nodes' keys"
    rows = keys.then(LookUp(table, declared.width).run, LookUp.schema)
    if declared.source == "ids":
        return rows
    assert features is not None
    assert declared.features is not None
    create_matrix(scratch, num_nodes, declared.width)
    land(rows, Land(**common, width=declared.width, own=scratch, projections=()), node_type, num_nodes)
    add = AddTower(**common, ids=scratch, width=declared.features, tower=declared.tower)
    return features.then(add.run, LookUp.schema)


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

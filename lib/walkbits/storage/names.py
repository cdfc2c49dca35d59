"""External ids for Python tasks: files of 65,536 names each, of which a task opens those it needs.

A join would shuffle the rows that are to be named, which may be vectors; this shuffles the names once.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from walkbits.errors import WalkbitsError
from walkbits.storage.places import Place, read_bytes, unique_name, write_bytes
from walkbits.storage.rows import Batches

_BLOCK: Final = 1 << 16
_OPEN: Final = 64
"""Files that a worker keeps open, or in memory where they lie below a URI."""


@dataclass(frozen=True)
class Names:
    """Names of the nodes 0, ..., count - 1.

    Attributes:
        folder: Where the files lie; of this writing alone, because workers keep files open by their names.
    """

    folder: Place
    count: int

    @classmethod
    def write(cls, frame: DataFrame, count: int, folder: Place) -> Names:
        """Write the files.

        Args:
            frame: (node BIGINT, name STRING) with each of `count` nodes once.
            folder: Scratch space that all hosts reach.

        Raises:
            WalkbitsError: a node is missing, or there twice.
        """
        names = cls(folder / unique_name(), count)
        blocks = max(1, -(-count // _BLOCK))
        node, name = frame.columns
        block = F.expr(f"CAST({node} DIV {_BLOCK} AS INT)")
        rows = frame.repartitionById(blocks, block).sortWithinPartitions(node).select(node, name)
        rows = rows.mapInArrow(_WriteBlock(names).run, _WriteBlock.schema)
        written = sum(row.names for row in rows.collect())
        if written != count:
            raise WalkbitsError(
                f"names must be there for each of {count} nodes, got {written}; "
                "rebuild the run's nodes with a new attempt"
            )
        return names

    def of(self, nodes: NDArray[Any]) -> pa.Array:
        """Names of int [n] nodes, in their order."""
        blocks = nodes // _BLOCK
        parts, places = [], []
        for block in np.unique(blocks):
            where = np.flatnonzero(blocks == block)
            places.append(where)
            parts.append(_open(self.file(int(block))).take(pa.array(nodes[where] - block * _BLOCK)))
        if len(parts) == 1:
            return parts[0]
        return pa.concat_arrays(parts).take(pa.array(np.argsort(np.concatenate(places), kind="stable")))

    def file(self, block: int) -> Place:
        """Where the names of a block lie."""
        return self.folder / f"{block:06d}.names"


@functools.lru_cache(_OPEN)
def _open(file: Place) -> pa.Array:
    source = pa.memory_map(str(file)) if isinstance(file, Path) else pa.BufferReader(read_bytes(file))
    return pa.ipc.open_file(source).get_batch(0).column(0)


@dataclass(frozen=True)
class _WriteBlock:
    names: Names

    schema: ClassVar[str] = "names bigint"

    def run(self, batches: Batches) -> Batches:
        """(node, name) of one block, by node -> one row (names), or none."""
        held: Sequence[pa.RecordBatch] = [batch for batch in batches if batch.num_rows]
        if not held:
            return
        table = pa.Table.from_batches(held)
        nodes = table.column(0).to_numpy()
        block = int(nodes[0]) // _BLOCK
        last = min((block + 1) * _BLOCK, self.names.count)
        if not np.array_equal(nodes, np.arange(block * _BLOCK, last)):
            raise WalkbitsError(
                f"names must be there once for each node from {block * _BLOCK} to {last - 1}, "
                f"got {len(nodes)} rows; rebuild the run's nodes with a new attempt"
            )
        column = table.column(1).combine_chunks()
        batch = pa.RecordBatch.from_arrays([column], names=["name"])
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)
        write_bytes(self.names.file(block), sink.getvalue())
        yield pa.RecordBatch.from_pydict({"names": [len(nodes)]})

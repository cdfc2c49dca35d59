"""Looks up external ids by node id inside Python tasks, without a join.

A join would shuffle the rows that are to be named, which may be vectors; this shuffles nothing.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark import TaskContext

from walkbits.arrays.mapped import ArrayWriter, create_array, open_array, save_array
from walkbits.arrays.places import Place, unique_name
from walkbits.arrays.positions import each_once, sums_of
from walkbits.errors import WalkbitsError
from walkbits.tables.rows import Batches, Rows, gathered

_FILE_BYTES: Final = 8 << 20
"""What a task holds of its names."""
_FILE_ROWS: Final = 1 << 21
"""More than so many bytes hold: a place is its file times this, plus the row in it."""
_TASK_FILES: Final = 1 << 11
_OPEN: Final = 256
"""Files that a worker keeps mapped. Those of a run that has ended hold their disk space until then."""


@dataclass(frozen=True)
class ExternalIds:
    """Names of the nodes 0, 1, ...

    Attributes:
        folder: Of this writing alone, because a worker, which keeps files open by their names, outlives it.
    """

    folder: Place

    @classmethod
    def write(cls, rows: Rows, count: int, folder: Place) -> ExternalIds:
        """Write the files.

        Args:
            rows: (node BIGINT, name STRING) with each of `count` nodes once.
            folder: Scratch space that all hosts reach.

        Raises:
            WalkbitsError: a node is missing, or there twice.
        """
        names = cls(folder / unique_name())
        create_array(names.places, (max(count, 1),), np.int64)
        tasks = rows.then(_WriteExternalIds(names).run, _WriteExternalIds.schema).to_frame().collect()
        if not each_once(tasks, count):
            raise WalkbitsError(
                f"names must be there once for each of {count} nodes, got {sum(task[0] for task in tasks)} "
                "rows with nodes missing or doubled; rebuild the run's nodes with a new attempt"
            )
        return names

    @property
    def places(self) -> Place:
        """Array int64 [nodes]: where each name is."""
        return self.folder / "places.npy"

    def file(self, number: int) -> Place:
        """An array of bytes, which are an Arrow file of one column."""
        return self.folder / f"{number}.npy"

    def of(self, nodes: NDArray[Any]) -> pa.Array:
        """Names of int [n] nodes, in their order."""
        numbers, rows = np.divmod(_places(self.places)[nodes], _FILE_ROWS)
        parts, wheres = [], []
        for number in np.unique(numbers).tolist():
            wheres.append(np.flatnonzero(numbers == number))
            parts.append(_names(self.file(number)).take(pa.array(rows[wheres[-1]])))
        if len(parts) == 1:
            return parts[0]
        return pa.concat_arrays(parts).take(pa.array(np.argsort(np.concatenate(wheres), kind="stable")))


@functools.lru_cache(2)
def _places(array: Place) -> NDArray[Any]:
    return open_array(array)


@functools.lru_cache(_OPEN)
def _names(file: Place) -> pa.Array:
    return pa.ipc.open_file(pa.py_buffer(open_array(file))).get_batch(0).column(0)


@dataclass(frozen=True)
class _WriteExternalIds:
    names: ExternalIds

    schema: ClassVar[str] = "count bigint, sum bigint, squares bigint"

    def run(self, batches: Batches) -> Batches:
        """(node, name) -> one row, the sums of the nodes."""
        part = TaskContext.get()
        # Of this attempt alone: whichever attempt of a task wrote a place, its file was whole before.
        number = (part.taskAttemptId() if part else 0) * _TASK_FILES
        seen = np.zeros(3, np.int64)
        with ArrayWriter(self.names.places) as places:
            for table in gathered(batches, _FILE_BYTES):
                nodes = table.column(0).to_numpy()
                seen += sums_of(nodes)
                save_array(self.names.file(number), _arrow_file(table.column(1).combine_chunks()))
                places.write(nodes, number * _FILE_ROWS + np.arange(len(nodes)))
                number += 1
        count, total, squares = seen.tolist()
        yield pa.RecordBatch.from_pylist([{"count": count, "sum": total, "squares": squares}])


def _arrow_file(column: pa.Array) -> NDArray[np.uint8]:
    batch = pa.RecordBatch.from_arrays([column], names=["name"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return np.frombuffer(sink.getvalue(), np.uint8)

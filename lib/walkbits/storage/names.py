"""External ids for Python tasks: a file of each task that reads some, and an array that tells where each is.

A join would shuffle the rows that are to be named, which may be vectors; this shuffles nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark import TaskContext

from walkbits.errors import WalkbitsError
from walkbits.storage.mapped import ArrayWriter, create_matrix, open_array, save_array
from walkbits.storage.places import Place, unique_name
from walkbits.storage.positions import each_once, sums_of
from walkbits.storage.rows import Batches, Rows

_OPEN: Final = 256
"""Files that a worker keeps mapped. Those of a run that has ended hold their disk space until then."""


@dataclass(frozen=True)
class Names:
    """Names of the nodes 0, 1, ...

    Attributes:
        places: Array int32 [nodes, 2]: number of the file, and row in it.
        files: By number, arrays of bytes, each of which is an Arrow file of one column.
    """

    places: Place
    files: Mapping[int, Place]

    @classmethod
    def write(cls, rows: Rows, count: int, folder: Place) -> Names:
        """Write the files.

        Args:
            rows: (node BIGINT, name STRING) with each of `count` nodes once.
            folder: Scratch space that all hosts reach. What is written has names of its own, because a
                worker, which keeps files open by them, outlives a run.

        Raises:
            WalkbitsError: a node is missing, or there twice.
        """
        folder = folder / unique_name()
        places = folder / "places.npy"
        create_matrix(places, count, 2, "<i4")
        tasks = rows.then(_WriteNames(folder, places).run, _WriteNames.schema).to_frame().collect()
        if not each_once([(task["count"], task["sum"], task["squares"]) for task in tasks], count):
            got = sum(task["count"] for task in tasks)
            raise WalkbitsError(
                f"names must be there once for each of {count} nodes, got {got} rows "
                "with nodes missing or doubled; rebuild the run's nodes with a new attempt"
            )
        return cls(places, {task["number"]: folder / task["file"] for task in tasks})

    def of(self, nodes: NDArray[Any]) -> pa.Array:
        """Names of int [n] nodes, in their order."""
        places = _opened(self.places)[nodes]  # [n, 2]
        numbers, rows = places[:, 0], places[:, 1]
        wheres = {number: np.flatnonzero(numbers == number) for number in np.unique(numbers).tolist()}
        parts = [_names(self.files[number]).take(pa.array(rows[where])) for number, where in wheres.items()]
        if len(parts) == 1:
            return parts[0]
        order = np.argsort(np.concatenate([*wheres.values()]), kind="stable")
        return pa.concat_arrays(parts).take(pa.array(order))


@functools.lru_cache(2)
def _opened(array: Place) -> NDArray[Any]:
    return open_array(array)


@functools.lru_cache(_OPEN)
def _names(file: Place) -> pa.Array:
    return pa.ipc.open_file(pa.py_buffer(open_array(file))).get_batch(0).column(0)


@dataclass(frozen=True)
class _WriteNames:
    folder: Place
    places: Place

    schema: ClassVar[str] = "number bigint, file string, count bigint, sum bigint, squares bigint"

    def run(self, batches: Batches) -> Batches:
        """(node, name) -> one row about the file of this task, or none."""
        held = [batch for batch in batches if batch.num_rows]
        if not held:
            return
        # By node, because another attempt of the task writes the same places, and may get its rows in
        # another order.
        table = pa.Table.from_batches(held).sort_by(held[0].schema.names[0])
        nodes, names = table.column(0).to_numpy(), table.column(1).combine_chunks()
        part = TaskContext.get()
        number = part.partitionId() if part else 0
        with ArrayWriter(self.places) as places:
            rows = np.arange(len(nodes), dtype=np.int32)
            places.write(nodes, np.stack([np.full_like(rows, number), rows], axis=1))
        batch = pa.RecordBatch.from_arrays([names], names=["name"])
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)
        file = f"{unique_name()}.npy"
        save_array(self.folder / file, np.frombuffer(sink.getvalue(), np.uint8))
        count, total, squares = sums_of(nodes).tolist()
        yield pa.RecordBatch.from_pylist(
            [{"number": number, "file": file, "count": count, "sum": total, "squares": squares}]
        )

"""Rows on their way through Python tasks."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql.types import StructType

Batches = Iterator[pa.RecordBatch]
Step = Callable[[Batches], Batches]


@dataclass(frozen=True)
class Rows:
    """The batches of a frame, through steps that follow each other in one Python function.

    So rows that come from files and leave to files (tables.parquet) never cross to Spark's side of a
    worker's socket, which would cost more than what most steps compute.

    Attributes:
        frame: Where the batches come from.
        schema: Of what the last step yields; of the frame, when there is none.
    """

    frame: DataFrame
    schema: StructType | str
    steps: tuple[Step, ...] = ()

    @classmethod
    def of(cls, frame: DataFrame) -> Rows:
        """A frame as it is."""
        return cls(frame, frame.schema)

    def then(self, step: Step, schema: StructType | str) -> Rows:
        """One step more."""
        return Rows(self.frame, schema, (*self.steps, step))

    def to_frame(self) -> DataFrame:
        """As a frame, for Spark to go on with."""
        return self.frame.mapInArrow(_Chain(self.steps).run, self.schema) if self.steps else self.frame


def union_of(parts: Sequence[Rows]) -> DataFrame:
    """The rows of all parts as one frame."""
    return reduce(DataFrame.unionAll, [part.to_frame() for part in parts])


def gathered(batches: Batches, size: int) -> Iterator[pa.Table]:
    """Batches as tables of about `size` bytes, the last one of what is left; none without rows."""
    held: list[pa.RecordBatch] = []
    total = 0
    for batch in batches:
        if batch.num_rows:
            held.append(batch)
            total += batch.nbytes
        if total >= size:
            yield pa.Table.from_batches(held)
            held, total = [], 0
    if held:
        yield pa.Table.from_batches(held)


@dataclass(frozen=True)
class _Chain:
    steps: tuple[Step, ...]

    def run(self, batches: Batches) -> Batches:
        for step in self.steps:
            batches = step(batches)
        yield from batches
        _freeze(*(getattr(step, "__qualname__", type(step).__qualname__) for step in self.steps))


@functools.cache
def _freeze(*_steps: str) -> None:
    """After a worker's first task of a kind: what it imported and compiled stays.

    Spark collects garbage after every task, and would look at all of it each time: 40 ms.
    """
    gc.collect()
    gc.freeze()

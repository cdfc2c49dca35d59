"""The proof that the model ran on each node once per pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pyspark import TaskContext
from pyspark.accumulators import Accumulator, AccumulatorParam
from pyspark.sql import SparkSession

from walkbits.errors import WalkbitsError

Counts = dict[tuple[str, int, int], tuple[int, int | None]]
"""(pass, stage, partition) -> rows, and the sum of their nodes where the pass reports it."""


class _Merge(AccumulatorParam[Counts]):
    """Later counts of a partition replace earlier ones."""

    def zero(self, value: Counts) -> Counts:
        return {}

    def addInPlace(self, value1: Counts, value2: Counts) -> Counts:
        value1.update(value2)
        return value1


class ModelRows:
    """Rows that each pass of the model computed.

    Tasks report their total by (pass, stage, partition): a retried or doubled task counts
    once, while a pass that was evaluated twice counts twice.
    """

    def __init__(self, spark: SparkSession, expected: Mapping[str, int]) -> None:
        self.expected = dict(expected)
        self._counts: Accumulator[Counts] = spark.sparkContext.accumulator({}, _Merge())

    def report(self, label: str, rows: int, node_sum: int | None = None) -> None:
        """In a task: rows of the pass that this partition has computed so far, and the sum of their nodes.

        The sum detects a node that is counted twice while another is missing.
        """
        task = TaskContext.get()
        assert task is not None, "rows are reported by tasks"
        self._counts.add({(label, task.stageId(), task.partitionId()): (rows, node_sum)})

    def seen(self) -> dict[str, int]:
        """On the driver: rows per pass, so far."""
        totals = dict.fromkeys(self.expected, 0)
        for (label, _, _), (rows, _) in self._counts.value.items():
            totals[label] += rows
        return totals

    def _doubled(self, label: str) -> bool:
        """Whether the nodes of a pass, by their sum, are not each of 0, 1, ... once."""
        reported = (of for (name, _, _), (_, of) in self._counts.value.items() if name == label)
        sums = [of for of in reported if of is not None]
        nodes = self.expected[label]
        return bool(sums) and sum(sums) != nodes * (nodes - 1) // 2

    def check(self, passes: Iterable[str] | None = None) -> None:
        """Raise WalkbitsError unless every pass, or each of the named ones, computed each node once."""
        seen = self.seen()
        wrong = {
            label: (seen[label], self.expected[label])
            for label in (self.expected if passes is None else passes)
            if seen[label] != self.expected[label] or self._doubled(label)
        }
        if wrong:
            raise WalkbitsError(
                f"the model must run once per node and pass, got (rows, nodes) {wrong}; "
                "look for nodes that the neighborhoods miss or hold twice"
            )

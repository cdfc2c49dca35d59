"""A root with its settings, and what the fault tests ask of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from pyspark.sql import SparkSession
from walkbits.config import Config
from walkbits.runs.log import find_run
from walkbits.runs.pointer import Pointer, read_pointer
from walkbits.runs.stage import StageRun
from walkbits.schemas import PUBLISHED
from walkbits.tables.store import Store

DAY, NEXT_DAY = date(2026, 1, 31), date(2026, 2, 1)


@dataclass(frozen=True)
class Day:
    """A root and its settings, as one driver knows them."""

    config: Config
    store: Store

    @property
    def spark(self) -> SparkSession:
        return self.store.spark

    def context(self, ds: date = DAY) -> StageRun:
        """The run of a day."""
        return StageRun(self.store, self.config, find_run(self.store, None, ds))

    def live(self) -> Pointer:
        """What readers see."""
        pointer = read_pointer(Store(self.spark, self.config.root), "live")
        assert pointer is not None
        return pointer

    def rows(self, run_id: str) -> dict[str, tuple[int, str]]:
        """Rows and checksum of each published table of a run, as re-read by a new store."""
        store = Store(self.spark, self.config.root)
        return {table.name: store.fingerprint(table, run_id) for table in PUBLISHED}


def day_of(spark: SparkSession, config: Config) -> Day:
    """A driver of its own, which has asked the tables nothing yet."""
    return Day(config, Store(spark, config.root))

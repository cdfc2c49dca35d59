"""Inner layers committed to Parquet, as the stage commits them to Delta."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from walkbits.tables.rows import Rows, union_of


class ParquetLayers:
    """Remembers which layers were written and which were finished."""

    def __init__(self, spark: SparkSession, folder: Path, kept: int = 0) -> None:
        self.spark, self.folder, self.kept = spark, folder, kept
        self.written: list[int] = []
        self.proven: list[int] = []

    def finished(self) -> int:
        return self.kept

    def write(self, parts: Sequence[Rows], layer: int) -> None:
        union_of(parts).write.parquet(str(self.folder / f"layer={layer}"))
        self.written.append(layer)

    def finish(self, layer: int) -> None:
        self.proven.append(layer)

    def read(self, layer: int, node_type: str) -> Rows:
        rows = self.spark.read.parquet(str(self.folder / f"layer={layer}"))
        return Rows.of(rows.where(F.col("node_type") == node_type).select("node", "representation"))

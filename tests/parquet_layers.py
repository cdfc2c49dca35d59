"""Inner layers committed to Parquet, as the stage commits them to Delta."""

from __future__ import annotations

from pathlib import Path

from pyspark.sql import DataFrame, SparkSession


class ParquetLayers:
    """Remembers which layers were written and which were finished."""

    def __init__(self, spark: SparkSession, folder: Path, kept: int = 0) -> None:
        self.spark, self.folder, self.kept = spark, folder, kept
        self.written: list[int] = []
        self.proven: list[int] = []

    def finished(self) -> int:
        return self.kept

    def write(self, rows: DataFrame, layer: int) -> None:
        rows.write.parquet(str(self.folder / f"layer={layer}"))
        self.written.append(layer)

    def finish(self, layer: int) -> None:
        self.proven.append(layer)

    def read(self, layer: int) -> DataFrame:
        return self.spark.read.parquet(str(self.folder / f"layer={layer}"))

"""Plain files beside the tables (mapped graphs, models) and how executors reach them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pyspark import SparkFiles
from pyspark.sql import SparkSession


@dataclass(frozen=True)
class HostFolder:
    """A folder that every host can memory-map; made by `distribute`, opened in a task."""

    path: str
    shipped: bool
    """Whether the files travelled through Spark; otherwise `path` is read in place."""

    def local(self) -> Path:
        """The folder on this host."""
        return Path(SparkFiles.get(Path(self.path).name)) if self.shipped else Path(self.path)


def distribute(spark: SparkSession, folder: str | Path) -> HostFolder:
    """Make a folder of the driver's disk reachable from each executor host, once per host.

    In local mode the workers map the very same files. On a cluster Spark's file server
    copies the folder to each executor's own directory on first use.
    """
    path = str(Path(folder).resolve())
    if str(spark.sparkContext.master).startswith("local["):
        return HostFolder(path, shipped=False)
    spark.sparkContext.addFile(path, recursive=True)
    return HostFolder(path, shipped=True)

"""Delta tables by path under one root: create, read, and append the few rows of logs."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from delta.tables import DeltaTable
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from walkbits.faults import hit
from walkbits.schemas import RUN_ID, SEQ, Table
from walkbits.tables.commits import Commits
from walkbits.tables.declared import check_columns
from walkbits.tables.delta_log import DeltaLog
from walkbits.tables.parquet import arrow_schema, read_files, write_file

_FEW_FILES: Final = 32
"""Of more files Spark would look for their sizes in a job of its own."""


@dataclass(frozen=True)
class _Rows:
    """Rows of a log table at a version of it."""

    version: int
    rows: pa.Table


@dataclass(frozen=True)
class Tables:
    """The tables under `root`.

    Attributes:
        root: Folder or URI without a trailing slash.
    """

    spark: SparkSession
    root: str
    _known: set[str] = field(default_factory=set, compare=False)
    _rows: dict[tuple[str, str], _Rows] = field(default_factory=dict, compare=False)
    commits: Commits = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "commits", Commits(self.root))

    @cached_property
    def on_local_disk(self) -> bool:
        """Whether hosts reach the tables' files by their path."""
        return DeltaLog(self.spark, self.below("")).on_local_disk()

    def path(self, table: Table) -> str:
        """Where the table is stored."""
        return self.below(table.name)

    def below(self, name: str) -> str:
        """Absolute, because Delta takes a relative path for a name."""
        root = self.root if "://" in self.root else str(Path(self.root).resolve())
        return f"{root}/{name}"

    def log(self, table: Table) -> DeltaLog:
        return DeltaLog(self.spark, self.path(table))

    def exists(self, table: Table) -> bool:
        """Whether the table has been created; never creates anything.

        Raises:
            InputError: the table stored there has other columns, as one of an older version may.
        """
        if table.name not in self._known:
            stored = self.log(table).columns() if self.on_local_disk else None
            if stored is None and DeltaTable.isDeltaTable(self.spark, self.path(table)):
                stored = self._delta(table).schema
            if stored is not None:
                check_columns(table, stored, self.path(table))
                self._known.add(table.name)
        return table.name in self._known

    def ensure(self, table: Table) -> None:
        """Create the table with its comments, partitions and CHECK constraints, if absent."""
        if self.exists(table):
            return
        with self.commits.one(table):  # the first drivers of a root may come at once
            if not self.exists(table):
                try:
                    self._create(table)
                except PySparkException:  # below a URI nobody waits: another driver may have created it since
                    if not self.exists(table):
                        raise
        self._known.add(table.name)

    def _create(self, table: Table) -> None:
        builder = DeltaTable.createIfNotExists(self.spark).location(self.path(table))
        builder = builder.addColumns(table.schema).comment(table.comment)
        if table.partition_by:
            builder = builder.partitionedBy(*table.partition_by)
        for name, rule in table.checks.items():
            builder = builder.property(f"delta.constraints.{name}", rule)  # in the same commit
        builder.execute()

    def read(self, table: Table, **where: Any) -> DataFrame:
        """The named columns of a table, narrowed to equal values (`run_id=...`, `layer=1`).

        A table that does not exist yet reads as empty. Few files of a run on local disk are read as they are:
        Delta runs two or three jobs to find them.
        """
        files: Mapping[str, int] | None = {}
        if self.exists(table):
            files = self.plain_files(table, where) if RUN_ID.name in where else None
        if files is None or len(files) > _FEW_FILES:
            frame = self._delta(table)
        elif not files:
            return self.spark.createDataFrame(arrow_schema(table).empty_table(), table.schema)
        else:
            reader = self.spark.read.schema(table.schema).option("basePath", self.log(table).local_path())
            frame = reader.option("__globPaths__", "false").parquet(*files)
        for name, value in where.items():
            frame = frame.where(F.col(name) == F.lit(value))
        return frame.select(*table.names)

    def plain_files(self, table: Table, where: Mapping[str, Any]) -> Mapping[str, int] | None:
        """Files (absolute path -> bytes) that hold the rows with some values of partition columns.

        None where only Delta can read the rows; see `DeltaLog.plain_files`.
        """
        if not self.on_local_disk:
            return None
        partition = {name: value for name, value in where.items() if name in table.partition_by}
        return self.log(table).plain_files(partition)

    def _delta(self, table: Table) -> DataFrame:
        return self.spark.read.format("delta").load(self.path(table))

    def append(self, table: Table, rows: Sequence[Mapping[str, Any]], **options: Any) -> None:
        """Append a few rows made by the driver (logs, the pointer).

        Where the table has a `seq` and the rows have none, it is the commit's place in the table's log.

        Args:
            options: Of the writer: then Spark appends, otherwise the driver, where hosts reach the table's
                folder by its path.
        """
        self.ensure(table)
        with self.commits.one(table):
            log = self.log(table)
            if SEQ in table.columns:
                seq = log.version() + 1
                rows = [{SEQ.name: seq, **row} for row in rows]
            if options or not self.on_local_disk:
                writer = self.local(table, rows).coalesce(1).write.format("delta").mode("append")
                writer.options(**options).save(self.path(table))
            else:
                log.append(write_file(log.local_path(), "", local_rows(table, rows), table, {}))
        hit(f"{table.name}.appended")

    def collect(self, table: Table, columns: Sequence[str] | None = None, **where: Any) -> list[Row]:
        """`read`, of a log table's few rows, on the driver.

        From a store they are read again only after a commit: a read is a query and one of the table's state.
        """
        if not self.exists(table):
            return []
        names, files = columns or table.names, self.plain_files(table, where)
        if files is not None:
            rows = read_files(table, files, self.log(table).local_path(), names, where)
        else:
            version, key = self.log(table).version(), (table.name, f"{columns} {sorted(where.items())}")
            known = self._rows.get(key)
            if known is None or known.version != version:
                arrow = self.read(table, **where).select(*names).toArrow()
                schema = pa.schema([arrow_schema(table).field(name) for name in names])
                known = self._rows[key] = _Rows(version, arrow.cast(schema))
            rows = known.rows
        return [Row(**row) for row in rows.to_pylist()]

    def local(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> DataFrame:
        """A frame of a few rows made by the driver."""
        # By Arrow: a list of rows would be pickled, parallelised and decoded by a job of its own kind.
        absent = {name for name in table.names if name not in rows[0]}
        schema = StructType([table.schema[name] for name in table.names if name not in absent])
        return self.spark.createDataFrame(local_rows(table, rows, absent), schema)


def local_rows(table: Table, rows: Sequence[Mapping[str, Any]], without: Container[str] = ()) -> pa.Table:
    """Rows of the driver as the table's columns."""
    schema = arrow_schema(table, without)
    return pa.table([pa.array([row[one.name] for row in rows], one.type) for one in schema], schema)


def utc_now() -> datetime:
    """The time of a log row; never part of a result."""
    return datetime.now(UTC)

"""Delta tables by path under one root: create, read, write one run's partition, verify.

Every stage materialises through `Store.write`; nothing else decides where or how a
table lies. A run's partition is written in one commit and re-read from then on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from delta.tables import DeltaTable
from pyspark.sql import Column, DataFrame, Observation, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DataType

from walkbits.errors import EmptyInputError, InputError, WalkbitsError
from walkbits.schemas import RUN_ID, Table

_DIGEST = "_digest"
_SAFE_VALUE = re.compile(r"^[A-Za-z0-9_=.-]{1,80}$")


@dataclass(frozen=True)
class Written:
    """What one output of a stage holds after its commit."""

    output: str
    rows: int
    fingerprint: str
    bytes: int
    delta_version: int | None


@dataclass(frozen=True)
class Store:
    """The tables under `root`.

    Attributes:
        root: Folder or URI without a trailing slash.
    """

    spark: SparkSession
    root: str
    _known: set[str] = field(default_factory=set, compare=False)

    def path(self, table: Table) -> str:
        """Where the table lies; absolute, because Delta takes a relative path for a name."""
        root = self.root if "://" in self.root else str(Path(self.root).resolve())
        return f"{root}/{table.name}"

    def exists(self, table: Table) -> bool:
        """Whether the table has been created; never creates anything."""
        if table.name not in self._known and DeltaTable.isDeltaTable(self.spark, self.path(table)):
            self._known.add(table.name)
        return table.name in self._known

    def ensure(self, table: Table) -> None:
        """Create the table with its comments, partitions and CHECK constraints, if absent."""
        if self.exists(table):
            return
        builder = DeltaTable.createIfNotExists(self.spark).location(self.path(table))
        builder = builder.addColumns(table.schema).comment(table.comment)
        if table.partition_by:
            builder = builder.partitionedBy(*table.partition_by)
        for name, rule in table.checks.items():
            builder = builder.property(f"delta.constraints.{name}", rule)  # in the same commit
        builder.execute()
        self._known.add(table.name)

    def read(self, table: Table, **where: Any) -> DataFrame:
        """The named columns of a table, narrowed to equal values (`run_id=...`, `layer=1`).

        A table that does not exist yet reads as empty.
        """
        if not self.exists(table):
            return self.spark.createDataFrame([], table.schema)
        frame = self.spark.read.format("delta").load(self.path(table))
        for name, value in where.items():
            frame = frame.where(F.col(name) == F.lit(value))
        return frame.select(*table.names)

    def write(
        self, table: Table, frame: DataFrame, run_id: str, allow_empty: bool = False, **partition: Any
    ) -> Written:
        """Replace one run's partition of a table in one commit.

        Args:
            frame: The table's columns without `run_id` and without the `partition` columns.
            partition: Values of further partition columns, when the frame is one of several.
            allow_empty: Otherwise a frame without rows is an error. Only the run's own
                partition is touched, and a run that failed so is never published.

        Raises:
            EmptyInputError: the frame had no rows.
        """
        self.ensure(table)
        fixed = {RUN_ID.name: run_id, **partition}
        frame = self._conform(table, frame, fixed)
        seen = Observation()
        (
            # hashed in a column of its own: inside an observed metric it would run uncompiled
            frame.withColumn(_DIGEST, row_digest(table))
            .observe(seen, *fingerprint_columns())
            .drop(_DIGEST)
            .write.format("delta")
            .mode("overwrite")
            .option("replaceWhere", _predicate(fixed))
            .option("compression", table.compression)
            .option("userMetadata", run_id)
            .save(self.path(table))
        )
        measured = seen.get
        if not (allow_empty or measured["rows"]):
            raise EmptyInputError(
                f"{table.name}: a stage must write at least one row, got none for run {run_id}; "
                "check the stages before it"
            )
        version, written_bytes = self._commit_of(table, run_id)
        return Written(
            output=output_name(table, partition),
            rows=int(measured["rows"]),
            fingerprint=fingerprint_text(measured),
            bytes=written_bytes,
            delta_version=version,
        )

    def append(self, table: Table, rows: Sequence[Mapping[str, Any]], **options: Any) -> None:
        """Append a few rows made by the driver (logs, metrics, the pointer); see also `replacing`."""
        self.ensure(table)
        ordered = [tuple(row[name] for name in table.names) for row in rows]
        frame = self.spark.createDataFrame(ordered, table.schema).coalesce(1)
        writer = frame.write.format("delta").mode("overwrite" if "replaceWhere" in options else "append")
        for name, value in options.items():
            writer = writer.option(name, value)
        writer.save(self.path(table))

    @staticmethod
    def replacing(partition: Mapping[str, Any]) -> dict[str, str]:
        """Options that make `append` put its rows in the place of a partition's."""
        return {"replaceWhere": _predicate(partition)}

    def fingerprint(self, table: Table, run_id: str, **partition: Any) -> tuple[int, str]:
        """Rows and order-independent checksum of committed data, re-read."""
        return fingerprint_of(table, self.read(table, run_id=run_id, **partition))

    def _commit_of(self, table: Table, run_id: str) -> tuple[int, int]:
        """Version and bytes of the run's newest commit to a table."""
        history = DeltaTable.forPath(self.spark, self.path(table)).history(20)
        mine = history.where(F.col("userMetadata") == run_id).orderBy(F.desc("version"))
        row = mine.select("version", F.col("operationMetrics")["numOutputBytes"]).first()
        return (int(row[0]), int(row[1] or 0)) if row else (-1, 0)

    def _conform(self, table: Table, frame: DataFrame, fixed: Mapping[str, Any]) -> DataFrame:
        wanted = [name for name in table.names if name not in fixed]
        missing = sorted(set(wanted) - set(frame.columns))
        if missing:
            raise WalkbitsError(
                f"{table.name}: columns {missing} must be written, got only {sorted(frame.columns)}"
            )
        columns = []
        for declared in table.schema.fields:
            name = declared.name
            column = F.lit(fixed[name]) if name in fixed else F.col(name)
            same = name in frame.columns and _kind(frame.schema[name].dataType) == _kind(declared.dataType)
            columns.append((column if same else column.cast(declared.dataType)).alias(name))
        return frame.select(*columns)


def _kind(data_type: DataType) -> str:
    """The type without the nullability of its elements, which no cast can narrow."""
    return data_type.simpleString()


def row_digest(table: Table) -> Column:
    """A row's hash without its run id, so that two runs with the same rows have the same fingerprint."""
    return F.xxhash64(*[F.col(name) for name in table.names if name != RUN_ID.name])


def fingerprint_columns() -> list[Column]:
    """Aggregates over digests that identify a set of rows, whatever their order.

    The sum beside the xor makes pairs of equal rows count.
    """
    digest = F.col(_DIGEST)
    return [
        F.count(F.lit(1)).alias("rows"),
        F.bit_xor(digest).alias("xor"),
        F.sum(digest.bitwiseAND(F.lit(0xFFFFFFFF))).alias("sum"),
    ]


def fingerprint_of(table: Table, frame: DataFrame) -> tuple[int, str]:
    """Rows and checksum of a frame of the table's columns."""
    row = frame.select(row_digest(table).alias(_DIGEST)).agg(*fingerprint_columns()).collect()[0]
    return int(row["rows"]), fingerprint_text(row.asDict())


def fingerprint_text(measured: Mapping[str, Any]) -> str:
    """The aggregates of `fingerprint_columns` as 32 hex digits."""
    xor, total = measured["xor"] or 0, measured["sum"] or 0
    return f"{int(xor) & 0xFFFFFFFFFFFFFFFF:016x}{int(total) & 0xFFFFFFFFFFFFFFFF:016x}"


def output_name(table: Table, partition: Mapping[str, Any]) -> str:
    """`neighborhoods/relation=item_from_item`: names one output in the stage log."""
    return "/".join([table.name, *(f"{name}={value}" for name, value in partition.items())])


def parse_output(output: str) -> tuple[str, dict[str, str]]:
    """The inverse of `output_name`."""
    name, *parts = output.split("/")
    return name, dict(part.split("=", 1) for part in parts)


def _predicate(fixed: Mapping[str, Any]) -> str:
    """A replaceWhere text; it cannot be parameterised, so only plain values pass."""
    for name, value in fixed.items():
        if not _SAFE_VALUE.match(str(value)):
            raise InputError(f"{name} must match {_SAFE_VALUE.pattern}, got {value!r}; use a plain value")
    return " AND ".join(
        f"{name} = {value}" if isinstance(value, int) else f"{name} = '{value}'"
        for name, value in fixed.items()
    )


def utc_now() -> datetime:
    """The time of a log row; never part of a result."""
    return datetime.now(UTC)


def check_writable(root: str) -> None:
    """Refuse a root that cannot be written, before any work is done.

    Only local folders are probed; an object store answers at the first commit.

    Raises:
        WalkbitsError: the folder cannot be made or written.
    """
    if "://" in root and not root.startswith("file://"):
        return
    folder = Path(root.removeprefix("file://"))
    probe = folder / ".write_probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise WalkbitsError(
            f"root must be a writable folder, got '{root}' ({error.strerror}); "
            "mend its permissions or pass --root"
        ) from error

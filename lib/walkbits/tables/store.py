"""Delta tables by path under one root: create, read, write one run's partition, verify.

Every stage materialises through `Store.write`; nothing else decides where or how a
table lies. A run's partition is written in one commit and re-read from then on.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pyarrow as pa
from delta.tables import DeltaTable
from pyspark.sql import DataFrame, Observation, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, StructType

from walkbits.errors import InputError, WalkbitsError
from walkbits.faults import hit
from walkbits.schemas import PUBLICATIONS, PUBLISHED, RUN_ID, SEQ, TABLES, Table
from walkbits.tables.commits import FIRST, Commits, empty, fenced, output_name, parse_output, predicate
from walkbits.tables.delta_log import NEVER, DeltaLog
from walkbits.tables.fingerprints import (
    DIGEST,
    combined_text,
    fingerprint_columns,
    fingerprint_text,
    fingerprints_of,
    row_digest,
)
from walkbits.tables.parquet import SPLIT_BYTES, ReadSplits, WriteFile, WrittenFile, split_files
from walkbits.tables.rows import Rows, union_of

_COMMITS: Final = itertools.count()


@dataclass(frozen=True)
class Written:
    """What one output of a stage holds after its commit."""

    output: str
    rows: int
    fingerprint: str
    bytes: int
    delta_version: int | None


@dataclass(frozen=True)
class _Files:
    """Files (absolute path -> bytes; None: not to be read as they are) of partitions at a table's version."""

    version: int
    files: dict[str, Mapping[str, int] | None]


@dataclass(frozen=True)
class Store:
    """The tables under `root`.

    Attributes:
        root: Folder or URI without a trailing slash.
        split_bytes: What one task of `scan` reads, at most about.
    """

    spark: SparkSession
    root: str
    split_bytes: int = SPLIT_BYTES
    _known: set[str] = field(default_factory=set, compare=False)
    _files: dict[str, _Files] = field(default_factory=dict, compare=False)
    commits: Commits = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "commits", Commits(self.root))

    def path(self, table: Table) -> str:
        """Where the table is stored."""
        return self._below(table.name)

    def scratch(self, run_id: str) -> str:
        """Folder for what Spark writes on the way to a run's tables."""
        return self._below(f"_scratch_{run_id}")

    def seal(self, outputs: Sequence[Written], run_id: str) -> None:
        """Take the last number of this driver's fence: only a higher one can write those outputs again.

        One commit a table, without rows.
        """
        places: dict[str, list[str]] = {}
        for output in outputs:
            name, partition = parse_output(output.output)
            places.setdefault(name, []).append(f"write/{predicate({RUN_ID.name: run_id, **partition})}")
        for name, apps in places.items():
            with self.commits.of_run(TABLES[name], run_id):
                self._log(TABLES[name]).number(apps, self.commits.last_number(run_id))

    def untouched(self, output: Written, run_id: str) -> bool:
        """Whether no commit after the output's own has changed its rows; False where the log cannot say."""
        table, partition = parse_output(output.output)
        if output.delta_version is None or not self.exists(TABLES[table]):
            return False
        place = {RUN_ID.name: run_id, **partition}
        return self._log(TABLES[table]).untouched(output.delta_version, place)

    def is_published(self, run_id: str) -> bool:
        """Whether any channel ever pointed at the run; its partitions are then immutable."""
        return not self.read(PUBLICATIONS).where(F.col("run_id") == run_id).isEmpty()

    @contextmanager
    def _replacing(self, table: Table, run_id: str) -> Iterator[None]:
        """A commit in the place of another: never of what is published, nor while something is."""
        with ExitStack() as stack:
            if table in PUBLISHED:
                stack.enter_context(self.commits.publishing())
                if self.is_published(run_id):
                    raise fenced(table, run_id)
            stack.enter_context(self.commits.of_run(table, run_id))
            yield

    def _below(self, name: str) -> str:
        """Absolute, because Delta takes a relative path for a name."""
        root = self.root if "://" in self.root else str(Path(self.root).resolve())
        return f"{root}/{name}"

    def exists(self, table: Table) -> bool:
        """Whether the table has been created; never creates anything.

        Raises:
            InputError: the table stored there has other columns, as one of an older version may.
        """
        if table.name not in self._known and DeltaTable.isDeltaTable(self.spark, self.path(table)):
            self._check_columns(table)
            self._known.add(table.name)
        return table.name in self._known

    def _check_columns(self, table: Table) -> None:
        """Foreign columns beside the declared ones do no harm: no read selects them."""
        lies = self.spark.read.format("delta").load(self.path(table)).schema
        found = {one.name: _kind(one.dataType) for one in lies.fields}
        wrong = [
            f"{one.name} {_kind(one.dataType)} (got {found.get(one.name, 'none')})"
            for one in table.schema.fields
            if found.get(one.name) != _kind(one.dataType)
        ]
        if wrong:
            raise InputError(
                f"{table.name}: the table at '{self.path(table)}' must have {', '.join(wrong)}; "
                "another version of walkbits made it: pass a new --root"
            )

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

    def scan(self, table: Table, names: Sequence[str], **where: Any) -> Rows:
        """The named columns of one partition for Python tasks: `read`, by the shortest way.

        Where hosts reach the files by their path, tasks read these; from a store, Spark does.

        Args:
            names: Columns that are no partition columns.
            where: A value for every partition column, and for others at will.
        """
        files = None
        if self.exists(table) and self._log(table).on_local_disk():
            files = self._plain_files(table, predicate({name: where[name] for name in table.partition_by}))
        if files is None:
            return Rows.of(self.read(table, **where).select(*names))
        splits = split_files(files, self.spark.sparkContext.defaultParallelism, self.split_bytes)
        within = {name: value for name, value in where.items() if name not in table.partition_by}
        numbers = self.spark.range(0, len(splits), 1, max(1, len(splits)))
        schema = StructType([table.schema[name] for name in names])
        return Rows.of(numbers).then(ReadSplits(splits, tuple(names), within).run, schema)

    def _plain_files(self, table: Table, place: str) -> Mapping[str, int] | None:
        """As the log has it. What this store has asked or committed, and nobody has changed since, it does
        not ask again: to answer, Delta reads the table's whole state.
        """
        log, known = self._log(table), self._files.get(table.name)
        if known is None or known.version != log.version() or place not in known.files:
            version, files = log.plain_files(place)
            if known is None or known.version != version:
                known = self._files[table.name] = _Files(version, {})
            known.files[place] = files
        return known.files[place]

    def write_rows(
        self, table: Table, parts: Sequence[Rows], run_id: str, allow_empty: bool = False, **partition: Any
    ) -> Written:
        """`write`, of rows that Python tasks make.

        Where hosts reach the table's folder by its path, the tasks write its files and Delta commits them:
        as `write` does, first by compare-and-set, then in the place of what is there. The table's CHECK
        constraints are not evaluated then: the tasks' rows satisfy them by their making.

        Args:
            parts: Each with all columns but those of the partition.
            allow_empty: As for `write`.

        Raises:
            EmptyInputError: no rows.
            LostRaceError: another driver has written the partition since, or published the run.
        """
        self.ensure(table)
        fixed = {RUN_ID.name: run_id, **partition}
        if not self._log(table).on_local_disk():
            return self.write(table, union_of(parts), run_id, allow_empty, **partition)
        place = predicate(fixed)
        # escaped as Spark does: both ways of writing know a partition by one folder
        folder = "/".join(f"{name}={quote(str(fixed[name]), safe='')}" for name in table.partition_by)
        transaction = self._log(table).begin(f"write/{place}", folder)
        number = FIRST if transaction.newest == NEVER else self.commits.number(run_id)
        if number <= transaction.newest:
            raise fenced(table, run_id)
        files = self._written_files(table, parts, folder, fixed)
        hit(f"{table.name}.written")
        rows = sum(file.rows for file in files)
        if not rows:
            if not allow_empty:
                raise empty(table, run_id)
            nothing = self.spark.createDataFrame([], table.schema)
            return self.write(table, nothing, run_id, allow_empty, **partition)
        commit_of = self.commits.of_run if transaction.newest == NEVER else self._replacing
        with commit_of(table, run_id):
            version = transaction.replace(place, fixed, files, number)
        hit(f"{table.name}.committed")
        root = self._log(table).local_path()
        sizes = {f"{root}/{file.path}": file.bytes for file in files}
        self._files[table.name] = _Files(version, {place: sizes})
        return Written(
            output=output_name(table, partition),
            rows=rows,
            fingerprint=combined_text(file.digests for file in files),
            bytes=sum(file.bytes for file in files),
            delta_version=version,
        )

    def _written_files(
        self, table: Table, parts: Sequence[Rows], folder: str, fixed: Mapping[str, Any]
    ) -> list[WrittenFile]:
        root = self._log(table).local_path()
        step = WriteFile(root, folder, table, fixed)
        written = union_of([part.then(step.run, WrittenFile.schema) for part in parts]).collect()
        return [WrittenFile(**row.asDict()) for row in written]

    def write(
        self, table: Table, frame: DataFrame, run_id: str, allow_empty: bool = False, **partition: Any
    ) -> Written:
        """Replace one run's partition of a table in one commit.

        Args:
            frame: The table's columns without `run_id` and without the `partition` columns.
            partition: Values of further partition columns, when the frame is one of several; a tuple
                where the frame has that column and holds several values of it.
            allow_empty: Otherwise a frame without rows is an error. Only the run's own
                partition is touched, and a run that failed so is never published.

        Raises:
            EmptyInputError: the frame had no rows.
            LostRaceError: another driver has written the partition since, or published the run.
        """
        self.ensure(table)
        fixed = {RUN_ID.name: run_id, **partition}
        measured, version, size = self._put(table, self._conform(table, frame, fixed), fixed)
        if not (allow_empty or measured["rows"]):
            raise empty(table, run_id)
        return Written(
            output=output_name(table, partition),
            rows=int(measured["rows"]),
            fingerprint=fingerprint_text(measured),
            bytes=size,
            delta_version=version,
        )

    def _put(
        self, table: Table, frame: DataFrame, fixed: Mapping[str, Any]
    ) -> tuple[Mapping[str, Any], int, int]:
        """Put rows in the place of a partition's; what was observed of them, the commit's version and bytes.

        The first writer of a partition appends, under a transaction of the partition's own name. That is a
        compare-and-set: Delta passes over the append where the name is in the log, and refuses it where
        another driver brings the name in meanwhile. Only where rows may be are they replaced: that
        reads the table's state, and takes several times as long. Delta passes over that too where the
        name has a higher number, which a driver with a higher fence, or the publication, gave it.
        """
        place, run_id = predicate(fixed), str(fixed[RUN_ID.name])
        before = self._log(table).known_version()
        app, number = f"write/{place}", self.commits.number(run_id)
        for mode, options in (
            ("append", {"txnAppId": app, "txnVersion": str(FIRST)}),
            ("overwrite", {"txnAppId": app, "txnVersion": str(number), "replaceWhere": place}),
        ):
            seen = Observation()
            # Tells this commit from those of any other driver, also of the same run.
            mark = f"{run_id} {self.spark.sparkContext.applicationId} {next(_COMMITS)}"
            commit_of = self.commits.of_run if mode == "append" else self._replacing
            with commit_of(table, run_id):
                (
                    # hashed in a column of its own: inside an observed metric it would run uncompiled
                    frame.withColumn(DIGEST, row_digest(table))
                    .observe(seen, *fingerprint_columns())
                    .drop(DIGEST)
                    .write.format("delta")
                    .mode(mode)
                    .options(**options)
                    .option("compression", table.compression)
                    .option("userMetadata", mark)
                    .save(self.path(table))
                )
                commit = self._log(table).commit_marked(mark, before)
            if commit is not None:
                hit(f"{table.name}.committed")
                return seen.get, *commit
        if self._log(table).newest(app) >= number:
            raise fenced(table, run_id)
        if not seen.get["rows"]:  # nothing in the place of nothing: Delta makes no commit
            return seen.get, self._log(table).known_version(), 0
        raise WalkbitsError(
            f"{table.name}: a commit must be in the table's log once it is made, got none of '{mark}' after "
            f"version {before}; look at the storage under '{self.root}' and run again"
        )

    def _log(self, table: Table) -> DeltaLog:
        return DeltaLog(self.spark, self.path(table))

    def append(self, table: Table, rows: Sequence[Mapping[str, Any]], **options: Any) -> None:
        """Append a few rows made by the driver (logs, the pointer).

        Where the table has a `seq` and the rows have none, it is the commit's place in the table's log.
        """
        self.ensure(table)
        with self.commits.one(table):
            if SEQ in table.columns:
                seq = self._log(table).version() + 1
                rows = [{SEQ.name: seq, **row} for row in rows]
            writer = self.local(table, rows).coalesce(1).write.format("delta").mode("append")
            writer.options(**options).save(self.path(table))
        hit(f"{table.name}.appended")

    def local(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> DataFrame:
        """A frame of a few rows made by the driver."""
        # By Arrow: a list of rows would be pickled, parallelised and decoded by a job of its own kind.
        columns = {name: pa.array([row[name] for row in rows]) for name in table.names}
        return self.spark.createDataFrame(pa.table(columns), table.schema)

    def fingerprint(self, table: Table, run_id: str, **partition: Any) -> tuple[int, str]:
        """Rows and order-independent checksum of committed data, re-read."""
        return fingerprints_of([(table, self.read(table, run_id=run_id, **partition))])[0]

    def _conform(self, table: Table, frame: DataFrame, fixed: Mapping[str, Any]) -> DataFrame:
        wanted = [name for name in table.names if isinstance(fixed.get(name, ()), tuple)]
        missing = sorted(set(wanted) - set(frame.columns))
        if missing:
            raise WalkbitsError(
                f"{table.name}: columns {missing} must be written, got only {sorted(frame.columns)}"
            )
        columns = []
        for declared in table.schema.fields:
            name = declared.name
            column = F.lit(fixed[name]) if name not in wanted else F.col(name)
            same = name in frame.columns and _kind(frame.schema[name].dataType) == _kind(declared.dataType)
            columns.append((column if same else column.cast(declared.dataType)).alias(name))
        return frame.select(*columns)


def _kind(data_type: DataType) -> str:
    """The type without the nullability of its elements, which no cast can narrow."""
    return data_type.simpleString()


def utc_now() -> datetime:
    """The time of a log row; never part of a result."""
    return datetime.now(UTC)

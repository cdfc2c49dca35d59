"""One run's partitions of the tables: write, read for Python tasks, verify.

Every stage materialises through `Store.write`; nothing else decides where or how a
table is stored. A run's partition is written in one commit and re-read from then on.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from pyspark.sql import DataFrame, Observation
from pyspark.sql.types import StructType

from walkbits.errors import WalkbitsError
from walkbits.faults import hit
from walkbits.schemas import PUBLICATIONS, PUBLISHED, RUN_ID, TABLES, Table
from walkbits.tables.commits import FIRST, empty, fenced, output_name, parse_output, predicate
from walkbits.tables.declared import conformed
from walkbits.tables.delta_log import NEVER, Transaction
from walkbits.tables.fingerprints import (
    DIGEST,
    combined_text,
    fingerprint_columns,
    fingerprint_text,
    fingerprints_of,
    row_digest,
)
from walkbits.tables.parquet import (
    SPLIT_BYTES,
    ReadSplits,
    WriteFile,
    WrittenFile,
    folder_of,
    split_files,
    write_file,
)
from walkbits.tables.rows import Rows, union_of
from walkbits.tables.tables import Tables, local_rows

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
class Store(Tables):
    """The tables under `root`, one partition of a run after the other.

    Attributes:
        split_bytes: What one task of `scan` reads, at most about.
    """

    split_bytes: int = SPLIT_BYTES

    def scratch(self, run_id: str) -> str:
        """Folder for what Spark writes on the way to a run's tables."""
        return self.below(f"_scratch_{run_id}")

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
                self.log(TABLES[name]).number(apps, self.commits.last_number(run_id))

    def untouched(self, output: Written, run_id: str) -> bool:
        """Whether no commit after the output's own has changed its rows; False where the log cannot say."""
        table, partition = parse_output(output.output)
        if output.delta_version is None or not self.exists(TABLES[table]):
            return False
        place = {RUN_ID.name: run_id, **partition}
        return self.log(TABLES[table]).untouched(output.delta_version, place)

    def is_published(self, run_id: str) -> bool:
        """Whether any channel ever pointed at the run; its partitions are then immutable."""
        return bool(self.collect(PUBLICATIONS, run_id=run_id))

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

    def scan(self, table: Table, names: Sequence[str], **where: Any) -> Rows:
        """The named columns of one partition for Python tasks: `read`, by the shortest way.

        Where hosts reach the files by their path, tasks read these; from a store, Spark does.

        Args:
            names: Columns that are no partition columns.
            where: A value for every partition column, and for others at will.
        """
        partition = {name: where[name] for name in table.partition_by}
        files = self.plain_files(table, partition) if self.exists(table) else None
        if files is None:
            return Rows.of(self.read(table, **where).select(*names))
        splits = split_files(files, self.spark.sparkContext.defaultParallelism, self.split_bytes)
        within = {name: value for name, value in where.items() if name not in table.partition_by}
        numbers = self.spark.range(0, len(splits), 1, max(1, len(splits)))
        schema = StructType([table.schema[name] for name in names])
        return Rows.of(numbers).then(ReadSplits(splits, tuple(names), within).run, schema)

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
        if not self.on_local_disk:
            return self.write(table, union_of(parts), run_id, allow_empty, **partition)
        transaction, number = self._begin(table, predicate(fixed), [folder_of(fixed)], run_id)
        files = self._written_files(table, parts, folder_of(fixed), fixed)
        hit(f"{table.name}.written")
        rows = sum(file.rows for file in files)
        if not rows:
            if not allow_empty:
                raise empty(table, run_id)
            nothing = self.spark.createDataFrame([], table.schema)
            return self.write(table, nothing, run_id, allow_empty, **partition)
        version = self._replace(table, transaction, predicate(fixed), files, number, run_id)
        return Written(
            output=output_name(table, partition),
            rows=rows,
            fingerprint=combined_text(file.digests for file in files),
            bytes=sum(file.bytes for file in files),
            delta_version=version,
        )

    def write_local(
        self, table: Table, rows: Sequence[Mapping[str, Any]], run_id: str, by: str, of: Sequence[str]
    ) -> None:
        """`write`, of a few rows made by the driver: without a Spark job where `write_rows` does.

        Args:
            rows: At least one, with all columns but `run_id`.
            by: The table's other partition column.
            of: All values of `by` whose rows these replace.
        """
        self.ensure(table)
        fixed = {RUN_ID.name: run_id, by: tuple(of)}
        if not self.on_local_disk:
            self.write(table, self.local(table, rows), run_id, allow_empty=False, **{by: tuple(of)})
            return
        partitions = [{RUN_ID.name: run_id, by: value} for value in of]
        transaction, number = self._begin(table, predicate(fixed), [*map(folder_of, partitions)], run_id)
        root = self.log(table).local_path()
        files = [
            write_file(root, folder_of(one), local_rows(table, own, one), table, one)
            for one in partitions
            if (own := [row for row in rows if row[by] == one[by]])
        ]
        self._replace(table, transaction, predicate(fixed), files, number, run_id)

    def _begin(
        self, table: Table, place: str, folders: Sequence[str], run_id: str
    ) -> tuple[Transaction, int]:
        """A transaction that puts files in a place, and its number."""
        transaction = self.log(table).begin(f"write/{place}", folders)
        number = FIRST if transaction.newest == NEVER else self.commits.number(run_id)
        if number <= transaction.newest:
            raise fenced(table, run_id)
        return transaction, number

    def _replace(
        self,
        table: Table,
        begun: Transaction,
        place: str,
        files: Sequence[WrittenFile],
        number: int,
        run_id: str,
    ) -> int:
        commit_of = self.commits.of_run if begun.newest == NEVER else self._replacing
        with commit_of(table, run_id):
            version = begun.replace(place, table.partition_by, files, number)
        hit(f"{table.name}.committed")
        return version

    def _written_files(
        self, table: Table, parts: Sequence[Rows], folder: str, fixed: Mapping[str, Any]
    ) -> list[WrittenFile]:
        root = self.log(table).local_path()
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
        measured, version, size = self._put(table, conformed(table, frame, fixed), fixed)
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
        before = self.log(table).known_version()
        app, number = f"write/{place}", self.commits.number(run_id)
        for mode, options in (
            ("append", {"txnAppId": app, "txnVersion": str(FIRST)}),
            ("overwrite", {"txnAppId": app, "txnVersion": str(number), "replaceWhere": place}),
        ):
            seen = Observation()
            # Distinguishes this commit from those of any other driver, also of the same run.
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
                commit = self.log(table).commit_marked(mark, before)
            if commit is not None:
                hit(f"{table.name}.committed")
                return seen.get, *commit
        if self.log(table).newest(app) >= number:
            raise fenced(table, run_id)
        if not seen.get["rows"]:  # nothing in the place of nothing: Delta makes no commit
            return seen.get, self.log(table).known_version(), 0
        raise WalkbitsError(
            f"{table.name}: a commit must be in the table's log once it is made, got none of '{mark}' after "
            f"version {before}; look at the storage under '{self.root}' and run again"
        )

    def fingerprint(self, table: Table, run_id: str, **partition: Any) -> tuple[int, str]:
        """Rows and order-independent checksum of committed data, re-read."""
        return fingerprints_of([(table, self.read(table, run_id=run_id, **partition))])[0]

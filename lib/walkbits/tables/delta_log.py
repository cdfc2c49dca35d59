"""A Delta table's log: which files a partition has, and a commit of new ones.

Commits go through Delta's own classes, since its Python API takes frames only; all use of them is here. What
a table on local disk holds delta-rs says, in milliseconds: Delta itself runs Spark jobs for each question.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote

import deltalake
import pyarrow as pa
import pyarrow.compute as pc
from deltalake.exceptions import DeltaError
from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession
from pyspark.sql.types import StructType

from walkbits.tables.parquet import WrittenFile

_LOOKED_AT: Final = 100
"""Commits that are read to see what they touched; a table's rows are read sooner than more of them."""
NEVER: Final = -1
"""Delta's number of an application that has committed nothing."""


@dataclass(frozen=True)
class DeltaLog:
    """The log of the table at `path`."""

    spark: SparkSession
    path: str

    def known_version(self) -> int:
        """Version of the table as this session knows it; never newer than the table."""
        return int(self._log().unsafeVolatileSnapshot().version())

    def version(self) -> int:
        """Version of the table now; its state is not read for that."""
        return int(self._updated().version())

    def commit_info(self, version: int) -> dict[str, Any]:
        """What a commit says of itself."""
        for action in self._actions_of(version):
            if "commitInfo" in action:
                return dict(action["commitInfo"])
        return {}

    def commit_marked(self, mark: str, after: int) -> tuple[int, int] | None:
        """Version and bytes of the commit with this user metadata, None when there is none after a version.

        Read from the commits themselves: the table's history would cost a Spark job.
        """
        for version in range(self.known_version(), after, -1):
            info = self.commit_info(version)
            if info.get("userMetadata") == mark:
                return version, int(info.get("operationMetrics", {}).get("numOutputBytes", 0))
        return None

    def untouched(self, since: int, partition: Mapping[str, Any]) -> bool:
        """Whether the commits after a version left a partition's rows alone, by what they say themselves.

        Commits that only move rows into other files do. False where there are too many to look at, where one
        is no longer there, and where the table is older than the version.
        """
        now = self.version()
        if not since <= now <= since + _LOOKED_AT:
            return False
        values = {name: str(value) for name, value in partition.items()}
        try:
            for version in range(since + 1, now + 1):
                for action in self._actions_of(version):
                    file = action.get("add") or action.get("remove")
                    if file and file.get("dataChange", True):
                        of = file.get("partitionValues") or {}
                        if all(of.get(name, value) == value for name, value in values.items()):
                            return False
        except Py4JJavaError:  # cleaned away
            return False
        return True

    def _actions_of(self, version: int) -> Iterator[dict[str, Any]]:
        file = self._jvm.org.apache.hadoop.fs.Path(f"{self.path}/_delta_log/{version:020d}.json")
        stream = self._file_system(file).open(file)
        lines = self._jvm.java.io.BufferedReader(self._jvm.java.io.InputStreamReader(stream, "UTF-8"))
        try:
            while (line := lines.readLine()) is not None:
                yield json.loads(line)
        finally:
            lines.close()

    def on_local_disk(self) -> bool:
        """Whether hosts reach the table's files by their path: not where Hadoop reads them from a store."""
        uri = self._file_system(self._jvm.org.apache.hadoop.fs.Path(self.path)).getUri()
        return str(uri.getScheme()) == "file"

    def local_path(self) -> str:
        """The table's folder without a scheme."""
        return str(self._jvm.org.apache.hadoop.fs.Path(self.path).toUri().getPath())

    def columns(self) -> StructType | None:
        """Of the table on local disk, None where there is none or only Delta can say."""
        table = self._opened()
        return None if table is None else StructType.fromJson(json.loads(table.schema().to_json()))

    def plain_files(self, partition: Mapping[str, Any]) -> dict[str, int] | None:
        """By absolute path the bytes of a partition's files in a table on local disk.

        None where their rows are not the table's as they are: some are deleted by a vector, columns go by
        other names, or files are stored elsewhere, as after a shallow clone; and where only Delta can say.
        """
        table = self._opened()
        if table is None or table.protocol().min_reader_version > 1:
            return None
        files = pa.table(table.get_add_actions(flatten=True))
        if not files.num_rows:  # then it has no columns of partitions
            return {}
        for name, value in partition.items():
            column = files[f"partition.{name}"]
            # a log's output names its partition in text
            files = files.filter(pc.equal(column, pa.scalar(value).cast(column.type)))
        names, sizes = [unquote(name) for name in files["path"].to_pylist()], files["size_bytes"].to_pylist()
        if any(name.startswith("/") or "://" in name for name in names):
            return None
        root = self.local_path()
        return {f"{root}/{name}": size for name, size in zip(names, sizes, strict=True)}

    def _opened(self) -> deltalake.DeltaTable | None:
        """By delta-rs; None where it cannot, which leaves it to Delta to read, or to say what is wrong."""
        try:
            return deltalake.DeltaTable(self.local_path())
        except DeltaError:
            return None

    def begin(self, app: str, folders: Sequence[str]) -> Transaction:
        """A transaction that reads the newest number of `app`, which writes to `folders` only.

        What the log says of `app` is asked only where a folder holds files: to answer, Delta reads the
        table's whole state, which takes longer than to write a small partition.
        """
        begun = self._begun()
        begun.readTxn().append(app)  # as txnVersion does: another commit of `app` is a conflict from now on
        places = [Path(self.local_path()) / folder for folder in folders]
        written = any(place.exists() and any(place.iterdir()) for place in places)
        return Transaction(self, begun, app, int(begun.txnVersion(app)) if written else NEVER)

    def append(self, file: WrittenFile) -> int:
        """Add a file in a commit that conflicts with no other; its version."""
        none = self._jvm.scala.Option.empty()
        append, write = self._jvm.org.apache.spark.sql.SaveMode.Append, self._operation("Write")
        return int(
            self._begun().commit(
                self._actions([_added(file)]), write(append, none, none, none, none, none, none, none, none)
            )
        )

    def newest(self, app: str) -> int:
        """The number of the newest commit of an application, NEVER without one."""
        return int(self._begun().txnVersion(app))

    def number(self, apps: Sequence[str], version: int) -> None:
        """Give applications a number in one commit without rows: what they commit below it is refused."""
        actions = [{"txn": {"appId": app, "version": version, "lastUpdated": _now()}} for app in apps]
        operation = getattr(self._operation("ManualUpdate$"), "MODULE$")
        self._begun().commit(self._actions(actions), operation)

    @property
    def _jvm(self) -> Any:
        return self.spark._jvm

    def _log(self) -> Any:
        return self._jvm.org.apache.spark.sql.delta.DeltaLog.forTable(self.spark._jsparkSession, self.path)

    def _begun(self) -> Any:
        none = self._jvm.scala.Option.empty()
        return self._log().startTransaction(none, none)

    def _operation(self, name: str) -> Any:
        return getattr(self._jvm.org.apache.spark.sql.delta, f"DeltaOperations${name}")

    def _updated(self) -> Any:
        none = self._jvm.scala.Option.empty()
        return self._log().update(False, none, none)

    def _file_system(self, path: Any) -> Any:
        return path.getFileSystem(self.spark._jsparkSession.sessionState().newHadoopConf())

    def _actions(self, actions: Sequence[Mapping[str, Any]], *more: Any) -> Any:
        package = self._jvm.org.apache.spark.sql.delta.actions
        from_json = getattr(getattr(package, "Action$"), "MODULE$").fromJson
        return self._seq([*more, *(from_json(json.dumps(action)) for action in actions)])

    def _parsed(self, predicate: str) -> Any:
        return self.spark._jsparkSession.sessionState().sqlParser().parseExpression(predicate)

    def _seq(self, values: Sequence[Any]) -> Any:
        return self._jvm.org.apache.spark.api.python.PythonUtils.toSeq(list(values))


@dataclass(frozen=True)
class Transaction:
    """A begun commit: refused if another of the same `app` comes first.

    Attributes:
        newest: The number of the newest commit of `app`, NEVER without one.
    """

    log: DeltaLog
    begun: Any
    app: str
    newest: int

    def replace(
        self, predicate: str, partition_by: Sequence[str], files: Sequence[WrittenFile], number: int
    ) -> int:
        """Put files in the place of some partitions', in one commit; its version.

        Args:
            number: Of the commit, higher than `newest`.

        Raises:
            PySparkException: DELTA_CONCURRENT_...: another driver changed a partition meanwhile.
        """
        jvm, repeated = self.log._jvm, self.newest != NEVER
        old = []
        if repeated:
            predicates = self.log._seq([self.log._parsed(predicate)])
            old = [one.remove() for one in _each(self.begun.filterFiles(predicates, False))]
        actions = [*map(_added, files)]
        actions.append({"txn": {"appId": self.app, "version": number, "lastUpdated": _now()}})
        option, none = jvm.scala.Option, jvm.scala.Option.empty()
        mode = jvm.org.apache.spark.sql.SaveMode
        operation = self.log._operation("Write")(
            mode.Overwrite if repeated else mode.Append,
            option.apply(self.log._seq(list(partition_by))),
            option.apply(predicate) if repeated else none,
            none, none, none, none, none, none,
        )  # fmt: skip
        return int(self.begun.commit(self.log._actions(actions, *old), operation))


def _added(file: WrittenFile) -> dict[str, Any]:
    """The action that adds a file, in the protocol's words."""
    return {
        "add": {
            "path": quote(file.path, safe="/="),
            "partitionValues": file.partition,
            "size": file.bytes,
            "modificationTime": _now(),
            "dataChange": True,
            "stats": file.stats,
        }
    }


def _now() -> int:
    return int(time.time() * 1000)


def _each(found: Any) -> list[Any]:
    return [found.apply(place) for place in range(found.size())]

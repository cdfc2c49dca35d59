"""Who may commit to a table: one process at a time on a local disk, and of a run its newest driver."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from walkbits.arrays.places import unique_name
from walkbits.errors import ConfigError, EmptyInputError, InputError, LostRaceError, WalkbitsError
from walkbits.schemas import Table
from walkbits.tables.locks import Busy, locked

CONFLICT: Final = "DELTA_CONCURRENT"
"""In the message of a commit that Delta refused because of another one."""
FIRST: Final = 1
"""The number of every partition's first commit: a second driver that takes it is passed over."""
_FENCE: Final = 1 << 20
"""A fence's number times this, plus the number of the commit, numbers what a driver writes again."""
_COUNTER: Final = itertools.count()
_WAIT: Final = {"commit": 7200.0, "publish": 600.0}
"""Seconds to wait for another process: a commit of Spark's own holds its table while rows are computed."""
_SAFE_VALUE = re.compile(r"[A-Za-z0-9_=.-]{1,80}")


@dataclass(frozen=True)
class Commits:
    """The commits of this driver to the tables under `root`."""

    root: str
    _fences: dict[str, int] = field(default_factory=dict, compare=False)

    def lock_file(self, name: str) -> Path | None:
        """Where drivers lock what `name` says; None where they share no disk."""
        if "://" in self.root and not self.root.startswith("file://"):
            return None
        return Path(self.root.removeprefix("file://")).resolve() / "_locks" / name

    def fence(self, run_id: str, number: int) -> None:
        """From now on this driver writes the run's partitions under a number, which no lower one replaces."""
        self._fences[run_id] = number

    def fence_of(self, run_id: str) -> int:
        """The number that `fence` set, 0 before."""
        return self._fences.get(run_id, 0)

    def number(self, run_id: str) -> int:
        """Of a commit in the place of another."""
        return self.fence_of(run_id) * _FENCE + FIRST + 1 + next(_COUNTER) % (_FENCE - FIRST - 3)

    def last_number(self, run_id: str) -> int:
        """Above all that this driver commits, below all of a driver with a higher fence."""
        return (self.fence_of(run_id) + 1) * _FENCE - 1

    @contextmanager
    def one(self, table: Table) -> Iterator[None]:
        """One commit at a time: between processes Delta's own are not safe on a local disk.

        Raises:
            WalkbitsError: another process does not end its commit.
        """
        with self._alone(f"{table.name}.commit", f"{table.name}: a commit"):
            yield

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """One publication, rollback or collection at a time under a root, on a local disk.

        Raises:
            WalkbitsError: another process does not end its own.
        """
        with self._alone("publish", "a publication"):
            yield

    @contextmanager
    def of_run(self, table: Table, run_id: str) -> Iterator[None]:
        """`one`, where a conflict means that another driver works on the run.

        Raises:
            LostRaceError: so it is.
        """
        try:
            with self.one(table):
                yield
        except PySparkException as error:
            if CONFLICT not in str(error):
                raise
            raise fenced(table, run_id) from error

    @contextmanager
    def _alone(self, name: str, what: str) -> Iterator[None]:
        file = self.lock_file(name)
        if file is None:
            yield
            return
        try:
            wait = _WAIT[name.rpartition(".")[2]]
            with locked(file, wait):
                yield
        except Busy as error:
            raise WalkbitsError(
                f"{what} under '{self.root}' may take at most {wait:g} s, got one of {error} that does not "
                "end; end that process and run again"
            ) from error


def fenced(table: Table, run_id: str) -> LostRaceError:
    """The error of a driver that is no longer the run's."""
    return LostRaceError(
        f"{table.name}: only the driver that holds run {run_id} may write it, got a newer driver's commit or "
        "the run's publication; nothing was replaced: end this driver, or start a new run with --new-attempt"
    )


def empty(table: Table, run_id: str) -> EmptyInputError:
    """The error of a stage without rows."""
    return EmptyInputError(
        f"{table.name}: a stage must write at least one row, got none for run {run_id}; "
        "check the stages before it"
    )


def output_name(table: Table, partition: Mapping[str, Any]) -> str:
    """`neighborhoods/relation=item_from_item`: names one output in the stage log."""
    return "/".join([table.name, *(f"{name}={value}" for name, value in partition.items())])


def parse_output(output: str) -> tuple[str, dict[str, str]]:
    """The inverse of `output_name`."""
    name, *parts = output.split("/")
    return name, dict(part.split("=", 1) for part in parts)


def predicate(fixed: Mapping[str, Any]) -> str:
    """One partition as SQL, or with a tuple of values several.

    It takes no parameters, so only plain values pass.
    """
    for name, given in fixed.items():
        for value in given if isinstance(given, tuple) else (given,):
            if not _SAFE_VALUE.fullmatch(str(value)):
                raise InputError(f"{name} must match {_SAFE_VALUE.pattern}, got {value!r}; use a plain value")

    def text(value: Any) -> str:
        return f"{value}" if isinstance(value, int) else f"'{value}'"

    return " AND ".join(
        f"{name} IN ({', '.join(map(text, value))})"
        if isinstance(value, tuple)
        else f"{name} = {text(value)}"
        for name, value in fixed.items()
    )


def check_writable(root: str) -> None:
    """Refuse a root that cannot be written, before any work is done.

    Only local folders are probed; an object store answers at the first commit.

    Raises:
        WalkbitsError: the folder cannot be made or written.
    """
    if "://" in root and not root.startswith("file://"):
        return
    folder = Path(root.removeprefix("file://"))
    probe = folder / f".write_probe_{unique_name()}"  # other drivers probe too
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise WalkbitsError(
            f"root must be a writable folder, got '{root}' ({error.strerror}); "
            "fix its permissions or pass --root"
        ) from error


def check_exclusion(spark: SparkSession, root: str, single_driver: bool) -> None:
    """Refuse storage where two drivers' commits can replace each other.

    Raises:
        ConfigError: s3 without a LogStore for several writers, and without the promise of one driver.
    """
    scheme = root.partition("://")[0] if "://" in root else ""
    if scheme not in ("s3", "s3a", "s3n") or single_driver:
        return
    key = f"spark.delta.logStore.{scheme}.impl"
    store = spark.conf.get(key, None) or spark.conf.get("spark.delta.logStore.class", None)
    if store is None or store.endswith("S3SingleDriverLogStore"):
        raise ConfigError(
            f"root '{root}' needs a Delta LogStore for several writers, got {key}={store}: two jobs at once "
            "could lose each other's commits; set it, as to io.delta.storage.S3DynamoDBLogStore, or promise "
            "with single_driver: true that jobs run one at a time (docs/operations.md)"
        )

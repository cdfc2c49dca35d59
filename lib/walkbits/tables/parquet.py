"""Parquet files of Delta tables, read and written by Python tasks themselves.

A vector that Spark reads for a Python task is copied row by row to a batch and sent through a socket; on the
way back so again, and a list of floats is written float by float. Arrow does all that in memory a task maps.
Which files a table has, and which it gets, stays Delta's business (tables.store).
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Final
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark import TaskContext

from walkbits.arrays.places import unique_name
from walkbits.errors import InputError
from walkbits.schemas import Table
from walkbits.tables.digest import row_digests
from walkbits.tables.fingerprints import Digests, hashed_columns
from walkbits.tables.rows import Batches, gathered

_BATCH_ROWS: Final = 3840
"""Whole blocks of the layer engine (`inference.block_size`), so that none is computed half empty."""
_ROW_GROUP_BYTES: Final = 8 << 20
"""What a task holds of a file that it writes, still in the cache when it is written, and what splits cut."""
SPLIT_BYTES: Final = 128 << 20
"""Most of a file that one task reads; only speed depends on it."""
_PREFIX: Final = 32
"""Characters of a text that the table's log keeps as a bound, as Delta does."""

_ARROW: Final[dict[str, pa.DataType]] = {
    "STRING": pa.string(),
    "INT": pa.int32(),
    "BIGINT": pa.int64(),
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "BOOLEAN": pa.bool_(),
    "DATE": pa.date32(),
    "TIMESTAMP": pa.timestamp("us", "UTC"),
    "BINARY": pa.binary(),
    "ARRAY<BIGINT>": pa.list_(pa.field("element", pa.int64(), nullable=False)),
    "ARRAY<FLOAT>": pa.list_(pa.field("element", pa.float32(), nullable=False)),
}
"""Of the tables' column types, those that tasks or the driver write."""


@dataclass(frozen=True)
class Split:
    """The row groups of a file whose middle is between two positions."""

    path: str
    start: int
    end: int


def split_files(sizes: Mapping[str, int], parallelism: int, split_bytes: int = SPLIT_BYTES) -> list[Split]:
    """Cut files (path -> bytes) into pieces of about `split_bytes`, and of less where cores would idle.

    Of few pieces each core gets two, so that no core waits long for another with one piece more.
    """
    wanted = max(1, min(split_bytes, sum(sizes.values()) // (2 * max(1, parallelism))))
    splits = []
    for path, size in sizes.items():
        pieces = max(1, round(size / wanted))
        bounds = [size * i // pieces for i in range(pieces + 1)]
        splits += [Split(path, *pair) for pair in pairwise(bounds)]
    return splits


@dataclass(frozen=True)
class ReadSplits:
    """Numbers of splits to their rows, in the order of the file.

    Attributes:
        where: Columns that must have a value; they need not be among `columns`.
    """

    splits: Sequence[Split]
    columns: tuple[str, ...]
    where: Mapping[str, Any]

    def run(self, batches: Batches) -> Batches:
        """(number of a split) -> columns.

        Raises:
            OSError: a file is gone, or a page of it is damaged.
        """
        for batch in batches:
            for number in batch.column(0).to_pylist():
                yield from self._read(self.splits[number])

    def _read(self, split: Split) -> Batches:
        wanted = list(dict.fromkeys([*self.columns, *self.where]))
        with pq.ParquetFile(split.path, memory_map=True, page_checksum_verification=True) as file:
            groups = [
                number
                for number in range(file.metadata.num_row_groups)
                if split.start <= _middle(file.metadata.row_group(number)) < split.end
            ]
            for batch in file.iter_batches(_BATCH_ROWS, groups, wanted, use_threads=False):
                rows = batch
                for name, value in self.where.items():
                    rows = rows.filter(pc.equal(rows.column(name), value))
                if rows.num_rows:
                    yield rows.select(list(self.columns))


def _middle(group: Any) -> int:
    columns = [group.column(number) for number in range(group.num_columns)]
    first = min(column.dictionary_page_offset or column.data_page_offset for column in columns)
    return int(first + sum(column.total_compressed_size for column in columns) // 2)


@dataclass(frozen=True)
class WrittenFile:
    """A file that a task wrote.

    Attributes:
        path: Below the table's folder.
        bytes: Size.
        rows: Rows.
        xor, sum: The rows' `Digests`.
        stats: What the table's log says of the file, as JSON.
    """

    path: str
    bytes: int
    rows: int
    xor: int
    sum: int
    stats: str

    schema: ClassVar[str] = "path string, bytes bigint, rows bigint, xor bigint, sum bigint, stats string"

    @property
    def partition(self) -> dict[str, str]:
        """Values of the partition columns, from the names of the file's folders."""
        return _values(self.path.split("/")[:-1])

    @property
    def digests(self) -> Digests:
        """For the fingerprint."""
        return Digests(self.xor, self.sum)


def _values(folders: Sequence[str]) -> dict[str, str]:
    pairs = (folder.split("=", 1) for folder in folders)
    return {name: unquote(value) for name, value in pairs}


def folder_of(partition: Mapping[str, Any]) -> str:
    """Folder of a partition below its table's, escaped as Spark does it."""
    return "/".join(f"{name}={quote(str(value), safe='')}" for name, value in partition.items())


@dataclass(frozen=True)
class WriteFile:
    """Rows of a table to one file of its own per attempt of a task; none for no rows.

    A killed or doubled attempt leaves a file that no log names, which the table's vacuum removes.

    Attributes:
        root: The table's folder.
        folder: Of the partition, below it.
        fixed: Values of the partition columns, which no file holds; all others come in the batches.
        digested: Whether the rows' digests are wanted; of nulls, dates and times there are none.
    """

    root: str
    folder: str
    table: Table
    fixed: Mapping[str, Any]
    digested: bool = True

    def run(self, batches: Batches) -> Batches:
        """Rows -> one `WrittenFile`, or none.

        Raises:
            pa.ArrowInvalid: a null, where the table allows none, or a number that its column cannot hold.
        """
        part = TaskContext.get()
        number = part.partitionId() if part else 0
        name = str(PurePosixPath(self.folder) / f"part-{number:05d}-{unique_name()}.parquet")
        path = Path(self.root) / name
        writer: pq.ParquetWriter | None = None
        schema, digests = arrow_schema(self.table, self.fixed), Digests()
        try:
            for group in gathered(batches, _ROW_GROUP_BYTES):
                rows = group.select(schema.names).cast(schema)
                for batch in rows.to_batches() if self.digested else ():
                    digests = digests.plus(row_digests(self._hashed(batch)))
                if writer is None:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    writer = self._writer(path, schema)
                writer.write_table(rows, row_group_size=rows.num_rows)
            if writer is None:
                return
            writer.close()
        except BaseException:
            if writer is not None:
                with suppress(OSError, pa.ArrowException):  # a full disk refuses the footer too
                    writer.close()
                path.unlink(missing_ok=True)
            raise
        metadata = pq.read_metadata(path)
        stats = _stats(metadata, schema)
        written = WrittenFile(name, path.stat().st_size, metadata.num_rows, *digests, stats)
        yield pa.RecordBatch.from_pylist([asdict(written)])

    def _writer(self, path: Path, schema: pa.Schema) -> pq.ParquetWriter:
        scalar = [field.name for field in schema if _is_scalar(field.type)]
        return pq.ParquetWriter(
            path,
            schema,
            compression="none" if self.table.compression == "uncompressed" else self.table.compression,
            # vectors never repeat, and nobody asks for those between two bounds
            use_dictionary=scalar,
            write_statistics=scalar,
            write_page_checksum=True,
            store_schema=False,
        )

    def _hashed(self, batch: pa.RecordBatch) -> list[pa.Array]:
        """The columns of the digest: those of the batch, and those that are the same in all rows."""
        kinds = {column.name: _ARROW[column.type] for column in self.table.columns}
        return [
            pa.repeat(pa.scalar(self.fixed[name], kinds[name]), batch.num_rows)
            if name in self.fixed
            else batch.column(name)
            for name in hashed_columns(self.table)
        ]


def arrow_schema(table: Table, without: Container[str] = ()) -> pa.Schema:
    """The table's columns but those that no file holds."""
    return pa.schema(
        [
            pa.field(one.name, _ARROW[one.type], one.nullable)
            for one in table.columns
            if one.name not in without
        ]
    )


def read_files(
    table: Table, files: Iterable[str], root: str, columns: Sequence[str], where: Mapping[str, Any]
) -> pa.Table:
    """Columns of the rows of some files of a table that have some values, for the driver.

    Args:
        root: The table's folder, below which names of folders hold the partition columns.

    Raises:
        InputError: a file is gone or damaged.
    """
    kinds = arrow_schema(table)
    schema = pa.schema([kinds.field(name) for name in dict.fromkeys([*columns, *where])])
    parts = [schema.empty_table()]
    try:
        for path in files:
            folders = PurePosixPath(path).relative_to(root).parts[:-1]
            fixed = {name: value for name, value in _values(folders).items() if name in schema.names}
            with pq.ParquetFile(
                path, page_checksum_verification=True, coerce_int96_timestamp_unit="us"
            ) as file:
                rows = file.read([name for name in schema.names if name not in fixed])
            for name, value in fixed.items():
                kind = schema.field(name).type
                rows = rows.append_column(name, pa.repeat(pa.scalar(value).cast(kind), rows.num_rows))
            rows = rows.select(schema.names).cast(schema)
            for name, value in where.items():
                rows = rows.filter(pc.equal(rows[name], pa.scalar(value).cast(schema.field(name).type)))
            parts.append(rows)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(
            f"{table.name}: a data file must be whole, got {error}; see 'Repair' in docs/operations.md"
        ) from error
    return pa.concat_tables(parts).select(list(columns))


def write_file(root: str, folder: str, rows: pa.Table, table: Table, fixed: Mapping[str, Any]) -> WrittenFile:
    """Some rows that the driver made, without digests; `WriteFile` says what the arguments are."""
    step = WriteFile(root, folder, table, fixed, digested=False)
    (written,) = step.run(iter(rows.to_batches()))
    return WrittenFile(**written.to_pylist()[0])


def _is_scalar(kind: pa.DataType) -> bool:
    return not (pa.types.is_list(kind) or pa.types.is_binary(kind))


def _stats(metadata: Any, schema: pa.Schema) -> str:
    """Rows and bounds of a file, in the form of Delta's log (protocol, per-file statistics)."""
    least: dict[str, Any] = {}
    most: dict[str, Any] = {}
    nulls: dict[str, int] = {}
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    for field in schema:
        if not (pa.types.is_string(field.type) or pa.types.is_integer(field.type)):
            continue
        seen = [group.column(_leaf(metadata, field.name)).statistics for group in groups]
        # A text of several kB leaves its row group without bounds: then the file has none.
        if all(one is not None and one.has_min_max for one in seen):
            nulls[field.name] = sum(one.null_count for one in seen)
            least[field.name] = _lower(min(one.min for one in seen))
            most[field.name] = _upper(max(one.max for one in seen))
    return json.dumps(
        {"numRecords": metadata.num_rows, "minValues": least, "maxValues": most, "nullCount": nulls}
    )


def _leaf(metadata: Any, name: str) -> int:
    """Which column of the file a scalar is: lists have a longer path."""
    return next(i for i in range(metadata.num_columns) if metadata.schema.column(i).path == name)


_LAST: Final = "\U0010ffff"


def _lower(value: Any) -> Any:
    return value[:_PREFIX] if isinstance(value, str) else value


def _upper(value: Any) -> Any:
    """Not below the text: cut before a character that the last of Unicode is above."""
    if not isinstance(value, str) or len(value) <= _PREFIX:
        return value
    end = next((at for at in range(_PREFIX, len(value)) if value[at] != _LAST), len(value))
    return value[:end] + _LAST if end < len(value) else value

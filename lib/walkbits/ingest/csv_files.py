"""CSV files as a frame of text columns, every row whole or refused.

Spark's reader keeps short, long and torn rows under column pruning, replaces bytes that are
not valid, and takes each file's columns by position. So the files are parsed here, one task a
file, by the strict dialect of Python's csv: a refused row is named by file and line, and
columns are found by each file's own header. Files are reached as `artifacts` are: a folder that
every host mounts, or a URI of pyarrow (s3, gs, abfs, hdfs). Compressed ones are known by their
ending.
"""

from __future__ import annotations

import csv
import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import pyarrow as pa
from pyarrow import fs
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StringType, StructField, StructType

from walkbits.arrays.places import Place, files_below, place_of
from walkbits.errors import InputError
from walkbits.input_settings import Csv
from walkbits.tables.rows import Batches

_ROWS_PER_BATCH: Final = 4096
# Longer fields are a quote that nobody closes: it would take in the rest of the file.
_LONGEST_FIELD: Final = 1 << 24
_NULL_FOLDER: Final = "__HIVE_DEFAULT_PARTITION__"


def read_csv(spark: SparkSession, path: str, dialect: Csv, name: str) -> DataFrame:
    """All rows of a file, or of all files of a folder, as text; folders `shop=007` add columns.

    A row is refused when it is read, by the task that reads it.

    Args:
        name: Config section it stands in, for messages.

    Raises:
        InputError: there is no file, a header names a column twice, or files differ in their columns.
    """
    place = place_of(re.sub("^s3[an]://", "s3://", path))
    try:
        files = [place] if _is_file(place) else [place / one for one in files_below(place) if _shown(one)]
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"{name}.path must be CSV that pyarrow can reach, got '{path}' ({_first_line(error)})"
        ) from error
    first, own = next(
        ((file, header) for file in files if (header := _header(_rows(file, dialect, name), dialect))),
        (None, []),
    )
    if first is None:
        raise InputError(
            f"{name}.path must hold CSV with a header line, got none in '{path}'; "
            f"name the columns in {name}.csv.columns if there is no header"
        )
    folders = list(_folder_values(first, place))
    for file in files:
        _refuse_other(folders, list(_folder_values(file, place)), "folder names", file, name)
    columns = [*own, *folders]
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        raise InputError(
            f"{name}: columns must have names of their own, got {twice} twice in '{first}'; rename them"
        )
    schema = StructType([StructField(column, StringType()) for column in columns])

    def parse(batches: Batches) -> Batches:
        for batch in batches:
            for number in batch.column(0).to_pylist():
                file = files[number]
                fixed = _folder_values(file, place)
                for rows in parsed(file, dialect, own, name):
                    values = [*rows, *([fixed[one]] * len(rows[0]) for one in folders)]
                    arrays = [pa.array(column, pa.string()) for column in values]
                    yield pa.RecordBatch.from_arrays(arrays, names=columns)

    return spark.range(0, len(files), 1, len(files)).mapInArrow(parse, schema)


def parsed(file: Place, dialect: Csv, columns: Sequence[str], name: str) -> Iterator[list[list[str | None]]]:
    """The file's rows in batches, each a list per column, in the order of `columns`.

    Raises:
        InputError: a row with more or fewer fields, quotes that do not close, bytes that are not
            valid in the encoding; with file and line.
    """
    nulls = frozenset(dialect.nulls)
    rows = _rows(file, dialect, name)
    header = _header(rows, dialect)
    if not header:
        return  # an empty file holds no rows
    _refuse_other(columns, header, "columns", file, name)
    order = [header.index(column) for column in columns]
    if dialect.columns:
        rows = _rows(file, dialect, name)  # the first line is a row
    whole = _whole_rows(rows, len(header), file, name)
    while batch := list(islice(whole, _ROWS_PER_BATCH)):
        fields = list(zip(*batch, strict=True))
        yield [[None if field in nulls else field for field in fields[at]] for at in order]


def _header(rows: Iterator[tuple[int, list[str]]], dialect: Csv) -> list[str]:
    """The names of a file's columns, none of an empty file."""
    _, first = next(rows, (1, []))
    # pandas leaves its index column without a name, spreadsheets their empty ones.
    named = [column or f"_c{position}" for position, column in enumerate(first)]
    return list(dialect.columns) if dialect.columns and first else named


def _whole_rows(
    rows: Iterator[tuple[int, list[str]]], width: int, file: Place, name: str
) -> Iterator[list[str]]:
    for line, row in rows:
        if len(row) != width:
            raise InputError(
                f"{name}: each row must have {width} fields as the header, got {len(row)} in line {line} of "
                f"'{file}': {row!r:.200}; fix the row, or name the file's own separator, quote and escape in "
                f"{name}.csv"
            )
        yield row


def _rows(file: Place, dialect: Csv, name: str) -> Iterator[tuple[int, list[str]]]:
    """Each row with the line that it begins in, empty lines left out.

    Raises:
        InputError: what Python raises over the file, as a sentence with file and line.
    """
    csv.field_size_limit(_LONGEST_FIELD)
    encoding = "utf-8-sig" if dialect.encoding == "utf-8" else dialect.encoding
    line = 1
    try:
        with _opened(file) as stream, TextIOWrapper(stream, encoding, "strict", newline="") as text:
            lines: Iterable[str] = text
            if dialect.quote and dialect.escape:
                lines = _doubled(text, dialect)
            rows = csv.reader(
                lines,
                delimiter=dialect.separator,
                quotechar=dialect.quote,
                quoting=csv.QUOTE_MINIMAL if dialect.quote else csv.QUOTE_NONE,
                strict=True,
            )
            for row in rows:
                if row:
                    yield line, row
                line = rows.line_num + 1
    except UnicodeError as error:
        raise InputError(
            f"{name}: text must be valid {dialect.encoding}, got other bytes in line "
            f"{_first_invalid_line(file, dialect.encoding)} of '{file}'; name the file's encoding in "
            f"{name}.csv.encoding, e.g. cp1252; a compressed file is known by its ending, e.g. .gz"
        ) from error
    except csv.Error as error:
        raise InputError(
            f"{name}: quotes must open and close around whole fields, got {error} in the row that begins in "
            f"line {line} of '{file}'; fix the row, or name the file's own separator, quote and escape in "
            f"{name}.csv"
        ) from error
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{name}: files must be readable, got '{file}' ({_first_line(error)})") from error


def _refuse_other(expected: Sequence[str], got: Sequence[str], kind: str, file: Place, name: str) -> None:
    if sorted(expected) != sorted(got):
        raise InputError(
            f"{name}: all files must have the same {kind}, got {list(got)} in '{file}' and {list(expected)} "
            "in others; give each kind of file a folder of its own"
        )


def _doubled(lines: Iterable[str], dialect: Csv) -> Iterator[str]:
    """Lines with escapes within quotes rewritten to RFC 4180: an escaped quote is doubled.

    As in the parser, quotes open at the start of a field only: 19" is no open quote.
    """
    separator, quote, escape = dialect.separator, dialect.quote or "", dialect.escape or ""
    marks = re.compile(f"{re.escape(escape)}[{re.escape(quote + escape)}]|{re.escape(quote)}")
    inside, closed = False, -1

    def rewrite(mark: re.Match[str]) -> str:
        nonlocal inside, closed
        found, at = mark.group(), mark.start()
        if found != quote:
            return found if not inside else quote * 2 if found[1] == quote else escape
        if inside:
            inside, closed = False, mark.end()
        else:
            inside = at in (0, closed) or mark.string[at - 1] == separator
        return found

    for line in lines:
        closed = -1
        yield marks.sub(rewrite, line)


def _folder_values(file: Place, top: Place) -> dict[str, str | None]:
    """Columns in folder names between `top` and the file, as text: `shop=007` is not shop 7."""
    if file == top:
        return {}
    folders = str(file).removeprefix(str(top)).strip("/").split("/")[:-1]
    pairs = [folder.partition("=") for folder in folders if "=" in folder]
    return {unquote(key): None if value == _NULL_FOLDER else unquote(value) for key, _, value in pairs}


def _shown(file: str) -> bool:
    """Not among the files that Spark and Hadoop keep beside data."""
    return not any(part.startswith(("_", ".")) and "=" not in part for part in file.split("/"))


def _is_file(place: Place) -> bool:
    if isinstance(place, Path):
        return place.is_file()
    system, path = place.open()
    return bool(system.get_file_info(path).type == fs.FileType.File)


def _opened(file: Place) -> Any:
    """The file's bytes, decompressed by its ending."""
    system, path = (fs.LocalFileSystem(), str(file)) if isinstance(file, Path) else file.open()
    return system.open_input_stream(path, compression="detect")


def _first_invalid_line(file: Place, encoding: str) -> str:
    """Where decoding fails: found only now, since text is decoded far ahead of the row that is parsed."""
    if encoding.startswith(("utf-16", "utf-32")):
        return "(unknown)"
    with _opened(file) as stream:
        tail, number = b"", 1
        for chunk in iter(functools.partial(stream.read, 1 << 20), b""):
            *lines, tail = (tail + chunk).split(b"\n")
            for line in lines:
                if not _valid(line, encoding):
                    return str(number)
                number += 1
    return str(number)


def _valid(line: bytes, encoding: str) -> bool:
    try:
        line.decode(encoding)
    except UnicodeError:
        return False
    return True


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

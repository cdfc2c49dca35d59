"""Maps what Spark, its tasks and the machine raise to the errors of walkbits.

Spark passes on what happened in a task as text: a condition in brackets, a sentence, a
SQLSTATE, then a trace and its causes. This is the one place that reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import unquote

from py4j.protocol import Py4JError, Py4JJavaError
from pyspark.errors import AnalysisException, PySparkException, PythonException

from walkbits import errors
from walkbits.errors import InputError, LostRaceError, WalkbitsError

_RAISED = re.compile(rf"^{re.escape(errors.__name__)}\.(\w+): (.+)$", re.MULTILINE)
_CONDITION = re.compile(r"\[([A-Z][A-Z0-9_]+(?:\.[A-Z0-9_]+)*)\] (.*?)\s*(?:SQLSTATE: (\w{5})|$)", re.DOTALL)
_FILE = re.compile(r"reading file (\S.*?)\.? ?(?:Could not read|Data type|File does not|$)")
_NO_PARQUET = re.compile(r": (\S.*?) is not a Parquet file")
_TYPES = re.compile(r"Parquet column (\[.+?\])\. Expected Spark type (\S+?), actual Parquet type (\S+?)\.?$")
_SCHEMAS = re.compile(
    r"Initial schema:\s*(.+?)\s*Schema that cannot be merged with the initial schema:\s*(.+?)\.?\s*SQLSTATE",
    re.DOTALL,
)
_FIELD = re.compile(r"`?([^`<>,: ]+)`?: ([A-Z_]+)")
_CAUSE = re.compile(r"^Caused by: [\w.$]+: (.+)$", re.MULTILINE)
# SQLSTATE classes that blame the data or the text of a view: data exceptions, constraint violations,
# syntax and names, limits, subqueries of several rows, what a view raises itself, and Spark's and Delta's own
# for files and tables (KD).
_OF_DATA: Final = ("21", "22", "23", "42", "54", "KD", "P0", "0A")

_FILE_HINT = "a data file must be whole; see 'Repair' in docs/operations.md"
_LOG_HINT = "a table's log must be whole; see 'Repair' in docs/operations.md"
_SIGNS: Final[tuple[tuple[str, type[WalkbitsError], str], ...]] = (
    ("DELTA_CONCURRENT", LostRaceError, "another driver committed to the same table; run again, it resumes"),
    ("No space left on device", WalkbitsError, "a disk is full: make room, and run again, it resumes"),
    ("Disk quota exceeded", WalkbitsError, "a disk is full: make room, and run again, it resumes"),
    ("Read-only file system", WalkbitsError, "the tables' storage must be writable; fix its mount"),
    ("java.lang.OutOfMemoryError", WalkbitsError, "raise --driver-memory or --executor-memory; run again"),
    ("FAILED_READ_FILE", InputError, _FILE_HINT),
    ("[PATH_NOT_FOUND]", InputError, _FILE_HINT),
    ("could not verify page integrity", InputError, _FILE_HINT),
    ("CRC checksum verification failed", InputError, _FILE_HINT),
    ("DELTA_TRUNCATED_TRANSACTION_LOG", InputError, _LOG_HINT),
    ("DELTA_VERSIONS_NOT_CONTIGUOUS", InputError, _LOG_HINT),
    ("DELTA_STATE_RECOVER_ERROR", InputError, _LOG_HINT),
)
"""What messages of Spark, Delta and pyarrow contain when their cause has a remedy."""


def recognised(error: BaseException) -> WalkbitsError | None:
    """The WalkbitsError that an error is or stands for: raised by a Python worker, or of a known cause."""
    if isinstance(error, WalkbitsError):
        return error
    text = _whole_text(error)
    worker = _raised_by_worker(text)
    if worker is not None:
        return worker
    for sign, kind, remedy in _SIGNS:
        if sign in text:
            said = next(line.strip() for line in text.splitlines() if sign in line)
            return kind(f"{said[:500]}: {remedy}")
    return None


def _raised_by_worker(text: str) -> WalkbitsError | None:
    for name, message in _RAISED.findall(text):
        kind = getattr(errors, name, None)
        if isinstance(kind, type) and issubclass(kind, WalkbitsError):
            return kind(message)
    return None


def data_in_words(error: BaseException, what: str) -> WalkbitsError | None:
    """As `recognised`, and what Spark says of the caller's data as an InputError; None for a defect.

    Args:
        what: The data that was read, for the message.
    """
    text = _whole_text(error)
    known = error if isinstance(error, WalkbitsError) else _raised_by_worker(text)
    if known is not None:
        return known
    found = [
        (condition, " ".join(message.split()))
        for condition, message, state in _CONDITION.findall(text)
        if state[:2] in _OF_DATA
    ]
    if not found and (named := _NO_PARQUET.search(text)):
        return InputError(f"{what}: {_of_file(f'reading file {named[1]}', text)}")
    if not found:
        if isinstance(error, AnalysisException):
            return InputError(f"{what} must be readable, got {text.splitlines()[0]:.500}; fix the source")
        return recognised(error) or _of_function(error, what)
    condition, message = found[-1]
    if schemas := _SCHEMAS.search(text):
        return InputError(f"{what}: {_of_schemas(*schemas.groups())}")
    for condition, message in found:
        if condition.startswith("FAILED_READ_FILE"):
            return InputError(f"{what}: {_of_file(message, text)}")
    return InputError(
        f"{what} must be readable, got [{condition}] {message:.500}; fix the source or its format"
    )


def _of_function(error: BaseException, what: str) -> InputError | None:
    """What a function of the caller's own raised, e.g. of a view; None where walkbits did."""
    if not isinstance(error, PythonException) or f"{errors.__name__.split('.')[0]}/" in str(error):
        return None
    said = (str(error).strip().splitlines() or [""])[-1]
    return InputError(f"{what} must be readable, got {said:.500} in a function of its view; fix the view")


def _of_schemas(first: str, other: str) -> str:
    """The columns whose types differ between files."""
    types, others = dict(_FIELD.findall(first)), dict(_FIELD.findall(other))
    differ = {name: (kind, others[name]) for name, kind in types.items() if others.get(name, kind) != kind}
    kinds = ", ".join(f"{one} and {two} for [{name}]" for name, (one, two) in differ.items()) or other
    return f"all files must have one type per column, got {kinds:.500}; write the files with one schema"


def _of_file(message: str, text: str) -> str:
    """Spark's sentence on a file that it cannot read, with the cause that it leaves to the trace."""
    named = _FILE.search(message)
    file = unquote(named[1]) if named else "unknown"
    if types := _TYPES.search(message):
        column, expected, got = types.groups()
        return (
            f"all files must have one type per column, got {got} for {column} in '{file}' and {expected} in "
            "others; write the files with one schema"
        )
    causes = _CAUSE.findall(text)
    cause = f" ({causes[-1]:.200})" if causes else ""
    return f"every file must be whole and of the format named, got '{file}'{cause}; fix or remove the file"


@contextmanager
def data_errors(what: str) -> Iterator[None]:
    """Raise what Spark says of the caller's data as `data_in_words` puts it."""
    try:
        yield
    except (PySparkException, Py4JError) as error:
        known = data_in_words(error, what)
        if known is None:
            raise
        raise known from error


def _whole_text(error: BaseException) -> str:
    """The message with those of its causes in the JVM, which pyspark keeps to itself."""
    texts, origin = [str(error)], getattr(error, "_origin", None)
    if not isinstance(error, Py4JJavaError):  # its text has the causes
        while origin is not None and len(texts) < 20:
            origin = _cause(origin)
            texts += [] if origin is None else [f"Caused by: {origin.toString()}"]
    return "\n".join(texts)


def _cause(throwable: Any) -> Any:
    try:
        return throwable.getCause()
    except Py4JError:
        return None

"""Everything walkbits raises on purpose, and the exit code each ends a job with.

A message names the parameter, the rule, the value seen and what to do. A job prints
it in one line and exits with the class's code; any other exception is a defect and
exits with 1 behind its stack trace.
"""

from __future__ import annotations

import re


class WalkbitsError(Exception):
    """Infrastructure or resources are not as the job needs them. Base of all others."""

    exit_code = 1


class InputError(WalkbitsError):
    """The caller's data or model cannot be used: wrong schema, values, ids or files."""

    exit_code = 2


class ModelError(InputError):
    """A model is missing, damaged, or does not fit the features it is given."""

    exit_code = 8


class EmptyInputError(WalkbitsError):
    """A table that must hold rows holds none; nothing was written."""

    exit_code = 3


class LostRaceError(WalkbitsError):
    """Another run published first, or published something newer."""

    exit_code = 4


class AuditError(WalkbitsError):
    """The run's own tables broke a rule of the audit; nothing was published."""

    exit_code = 5


class ConfigError(WalkbitsError):
    """The configuration or a flag breaks a rule. Names the key, the rule and the value."""

    exit_code = 6


class MissingDependencyError(WalkbitsError):
    """An optional jar or package that this option needs is absent."""

    exit_code = 7


_RAISED = re.compile(rf"^{re.escape(__name__)}\.(\w+): (.+)$", re.MULTILINE)


_FILE = "a data file must be whole; see 'Repair' in docs/operations.md"
_LOG = "a table's log must be whole; see 'Repair' in docs/operations.md"
_SIGNS: tuple[tuple[str, type[WalkbitsError], str], ...] = (
    ("DELTA_CONCURRENT", LostRaceError, "another driver committed to the same table; run again, it resumes"),
    ("No space left on device", WalkbitsError, "a disk is full: make room, and run again, it resumes"),
    ("FAILED_READ_FILE", InputError, _FILE),
    ("could not verify page integrity", InputError, _FILE),
    ("CRC checksum verification failed", InputError, _FILE),
    ("DELTA_TRUNCATED_TRANSACTION_LOG", InputError, _LOG),
    ("DELTA_VERSIONS_NOT_CONTIGUOUS", InputError, _LOG),
    ("DELTA_STATE_RECOVER_ERROR", InputError, _LOG),
)
"""What the messages of Spark, Delta and pyarrow hold that tell a cause with a remedy."""


def recognised(error: BaseException) -> WalkbitsError | None:
    """The WalkbitsError that an error is or stands for: raised by a Python worker, or of a known cause."""
    if isinstance(error, WalkbitsError):
        return error
    worker = raised_by_worker(error)
    if worker is not None:
        return worker
    text = str(error)
    for sign, kind, remedy in _SIGNS:
        if sign in text:
            said = next(line.strip() for line in text.splitlines() if sign in line)
            return kind(f"{said[:500]}: {remedy}")
    return None


def raised_by_worker(error: BaseException) -> WalkbitsError | None:
    """The WalkbitsError that a Python worker raised and Spark passed on as text, if that is what this is."""
    for name, message in _RAISED.findall(str(error)):
        kind = globals().get(name)
        if isinstance(kind, type) and issubclass(kind, WalkbitsError):
            return kind(message)
    return None

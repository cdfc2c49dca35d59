"""Times of events as UTC days, from timestamps, dates, text or epoch numbers."""

from __future__ import annotations

from typing import Final

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from walkbits.errors import InputError
from walkbits.ingest.sources import quoted
from walkbits.input_settings import Events

RULE: Final = (
    "a time such as 2026-01-31, 2026-01-31 12:00:00 or 2026-01-31T12:00:00+01:00, or an epoch integer with "
    "timestamp_unit"
)
_PER_SECOND: Final = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}


def times_of(frame: DataFrame, spec: Events, section: str) -> tuple[Column, Column, Column]:
    """Of a row's time: whether it is missing, its UTC day since 1970-01-01, and the TIMESTAMP.

    Day and timestamp are null where the time cannot be read. Days are numbers: epochs of any size compare,
    and none overflows. An offset within a text counts.

    Args:
        section: Of the config, for messages.

    Raises:
        InputError: the column's type holds no time.
    """
    if spec.timestamp is None:
        return F.lit(False), F.lit(None).cast("bigint"), F.lit(None).cast("timestamp")
    column, kind = F.col(quoted(spec.timestamp)), frame.schema[spec.timestamp].dataType.typeName()
    if kind in ("timestamp", "timestamp_ntz", "date"):
        return column.isNull(), _day(column), column.cast("timestamp")
    if kind == "string":
        text = F.trim(column)
        missing = column.isNull() | (text == "")
        if spec.timestamp_unit is not None:
            return missing, *_of_epoch(text.try_cast("bigint"), spec.timestamp_unit)
        # Spark takes years alone and hours of today, too. An offset may lack its colon.
        written = F.regexp_replace(text, r"([T ].*[+-]\d{2})(\d{2})$", "$1:$2")
        time = F.when(text.rlike(r"^\d{4}-\d{1,2}-\d{1,2}([T ]\d|$)"), written).try_cast("timestamp")
        return missing, _day(time), time
    if kind in ("byte", "short", "integer", "long") and spec.timestamp_unit is not None:
        return column.isNull(), *_of_epoch(column.cast("bigint"), spec.timestamp_unit)
    raise InputError(
        f"{section}.{spec.timestamp} must be a timestamp, date or ISO text, got {kind}; cast it at its "
        f"source, or name the unit of epoch integers in {section}.timestamp_unit"
    )


def _day(time: Column) -> Column:
    return F.unix_date(F.to_date(time)).cast("bigint")


def _of_epoch(epoch: Column, unit: str) -> tuple[Column, Column]:
    per_second = _PER_SECOND[unit]
    per_day = F.lit(86_400 * per_second).cast("bigint")
    day = F.call_function("div", epoch, per_day) - (epoch % per_day < 0).cast("bigint")
    micros = (
        F.try_multiply(epoch, F.lit(10**6 // per_second).cast("bigint"))
        if per_second <= 10**6
        else F.call_function("div", epoch, F.lit(per_second // 10**6).cast("bigint"))
    )
    return day, F.timestamp_micros(micros)

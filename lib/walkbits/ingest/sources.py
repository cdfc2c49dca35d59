"""Reading the caller's tables: Parquet, CSV or Delta by path, or a catalog table.

Ids are strings or integers and reach the graph as exact text; a float id is refused,
because 2^53 + 1 and 2^53 would be one item.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import (
    BooleanType,
    DataType,
    IntegralType,
    NumericType,
    StringType,
)

from walkbits.errors import InputError
from walkbits.settings import Source


def read_source(spark: SparkSession, source: Source, name: str) -> DataFrame:
    """The whole table behind a `Source`.

    Args:
        name: Config section it stands in, for messages.

    Raises:
        InputError: no such path or table, or it cannot be read in the format named.
    """
    place = source.path or source.table
    if source.path is not None and "://" not in source.path and not Path(source.path).exists():
        raise InputError(f"{name}.path must exist, got '{source.path}'; mend the path in the config")
    try:
        if source.table is not None:
            return spark.table(source.table)
        reader = spark.read.format(source.format)
        if source.format == "csv":
            # No type inference: an id such as 007 stays what it is.
            reader = reader.option("header", True).option("mode", "FAILFAST")
        return reader.load(source.path)
    except AnalysisException as error:
        kind = "catalog table" if source.table else f"{source.format} path"
        reason = error.getCondition() or str(error).splitlines()[0]
        raise InputError(f"{name} must be a readable {kind}, got '{place}' ({reason})") from error


def require_columns(frame: DataFrame, columns: Sequence[str], name: str) -> None:
    """Refuse a table that lacks mapped columns; all are named at once.

    Raises:
        InputError: columns are missing.
    """
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise InputError(
            f"{name}: columns {missing} must exist, got {frame.columns}; mend the column names in the config"
        )


def require_id(frame: DataFrame, column: str, name: str) -> None:
    """Refuse an id column that is neither string nor integer.

    Raises:
        InputError: the column's type, e.g. double.
    """
    kind = frame.schema[column].dataType
    if not isinstance(kind, StringType | IntegralType):
        raise InputError(
            f"{name}.{column} must be a string or integer id, got {kind.simpleString()}; "
            "cast it at its source"
        )


def as_id(column: str) -> Column:
    """The id as exact text."""
    return F.col(column).cast("string")


def as_number(frame: DataFrame, column: str, name: str) -> Column:
    """The column as double: null where it was null, NaN where a text is no number.

    Raises:
        InputError: the column's type can hold no number.
    """
    kind: DataType = frame.schema[column].dataType
    if isinstance(kind, StringType):
        text = F.trim(F.col(column))
        parsed = text.try_cast("double")
        empty = F.col(column).isNull() | (text == "")
        return F.when(empty, F.lit(None).cast("double")).otherwise(F.coalesce(parsed, F.lit(float("nan"))))
    if isinstance(kind, NumericType | BooleanType):
        return F.col(column).cast("double")
    raise InputError(
        f"{name}.{column} must be numeric, got {kind.simpleString()}; cast it at its source or leave it out"
    )

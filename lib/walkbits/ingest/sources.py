"""Reading the caller's tables: Parquet, CSV or Delta by path, or a catalog table.

Ids are exact and reach the graph as text; a float id is refused, because 2^53 + 1 and 2^53
would be one item. What is read is decided here alone: format, types, folder names, missing
values, and names of columns that hold dots.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import (
    BooleanType,
    DataType,
    DecimalType,
    IntegralType,
    LongType,
    NumericType,
    StringType,
)

from walkbits.errors import InputError
from walkbits.ingest.csv_files import read_csv
from walkbits.input_settings import Source
from walkbits.spark_errors import data_errors
from walkbits.tables.delta_log import DeltaLog

_LOG: Final = "_delta_log"


def read_source(spark: SparkSession, source: Source, name: str) -> DataFrame:
    """The whole table behind a `Source`; pandas' nanosecond times as timestamps.

    Args:
        name: Config section it stands in, for messages.

    Raises:
        InputError: no such path or table, or it cannot be read in the format named.
    """
    with data_errors(name):
        if source.table is not None:
            return spark.table(source.table)
        assert source.path is not None
        kind = _format(spark, source, name)
        if kind != "delta" and source.version is not None:
            raise InputError(
                f"{name}.version must be of a Delta table, got {source.version} for {kind} '{source.path}'; "
                "leave it out"
            )
        if kind == "csv":
            return read_csv(spark, source.path, source.csv, name)
        # A path is a name, not a pattern, and a folder `shop=007` is not shop 7.
        reader = spark.read.format(kind).option("__globPaths__", "false")
        if kind == "delta" and source.version is not None:
            reader = reader.option("versionAsOf", source.version)
        if kind == "parquet":
            _check_files(spark, source.path, name)
            # Files that differ in a type are refused, in any order.
            reader = reader.option("mergeSchema", "true")
        with _setting(spark, "spark.sql.sources.partitionColumnTypeInference.enabled", "false"):
            frame = reader.load(source.path)
        return _with_nanoseconds(spark, frame) if kind == "parquet" else frame


def pinned_version(spark: SparkSession, source: Source, name: str) -> int | None:
    """The version of a Delta table by path that a run reads from now on; None of other sources."""
    if source.path is None or source.version is not None:
        return source.version
    with data_errors(name):
        return DeltaLog(spark, source.path).version() if _format(spark, source, name) == "delta" else None


def _format(spark: SparkSession, source: Source, name: str) -> str:
    """The source's format: what its folder says counts, since a table's files are not its rows.

    Raises:
        InputError: there is nothing, or a part of a table, or a table of another kind.
    """
    jvm: Any = spark._jvm
    path = jvm.org.apache.hadoop.fs.Path(source.path)
    system = path.getFileSystem(spark._jsparkSession.sessionState().newHadoopConf())

    def holds(folder: Any, inside: str) -> bool:
        return bool(system.exists(jvm.org.apache.hadoop.fs.Path(folder, inside)))

    def listed(folder: Any) -> list[Any]:
        return list(system.listStatus(folder)) if system.getFileStatus(folder).isDirectory() else []

    if not system.exists(path):
        raise InputError(f"{name}.path must exist, got '{source.path}'; fix the path in the config")
    metadata = jvm.org.apache.hadoop.fs.Path(path, "metadata")
    marks = {
        "Hudi": holds(path, ".hoodie"),
        "Iceberg": system.exists(metadata)
        and any(one.getPath().getName().endswith(".metadata.json") for one in listed(metadata)),
    }
    for table, there in marks.items():
        if there:
            raise InputError(
                f"{name}.path must be a folder of plain files or Delta, got '{source.path}' of {table}, "
                "which keeps deleted rows in files of their own; name it as a catalog table: "
                f"{name}.table"
            )
    if holds(path, _LOG):
        if source.format == "csv":
            raise InputError(
                f"{name}.format must be delta for a Delta table, got csv for '{source.path}'; fix the config"
            )
        return "delta"
    if source.format == "delta":
        raise InputError(
            f"{name}.format must be that of the files, got delta for '{source.path}' without {_LOG}; fix "
            "the path or the format"
        )
    above = path.makeQualified(system.getUri(), system.getWorkingDirectory()).getParent()
    while above is not None:
        if holds(above, _LOG):
            raise InputError(
                f"{name}.path must be a whole table, got '{source.path}' within the Delta table "
                f"'{above.toString()}'; name that folder, with format: delta"
            )
        above = above.getParent()
    below = path
    while (inner := next((one for one in listed(below) if _is_value(one)), None)) is not None:
        below = inner.getPath()
        if holds(below, _LOG):
            raise InputError(
                f"{name}.path must be one table, got '{source.path}' above the Delta table "
                f"'{below.toString()}', which keeps deleted rows in files of their own; name a view of all: "
                f"{name}.table"
            )
    return source.format


def _is_value(status: Any) -> bool:
    """A folder such as `shop=007`."""
    return bool(status.isDirectory()) and "=" in str(status.getPath().getName())


def _check_files(spark: SparkSession, path: str, name: str) -> None:
    """Refuse a folder with files that Spark leaves out in silence: those of another depth than the first.

    Raises:
        InputError: names two of them.
    """
    jvm: Any = spark._jvm
    folder = jvm.org.apache.hadoop.fs.Path(path)
    system = folder.getFileSystem(spark._jsparkSession.sessionState().newHadoopConf())
    if system.getFileStatus(folder).isFile():
        return
    top = folder.makeQualified(system.getUri(), system.getWorkingDirectory()).toString()
    reader = spark.read.format("binaryFile").option("__globPaths__", "false")
    files = reader.option("recursiveFileLookup", "true").load(path).select("path")
    folders = F.regexp_replace(F.expr(f"substring(path, {len(top) + 2})"), "[^/]*$", "")
    shapes = (
        files.groupBy(F.regexp_replace(folders, "=[^/]*", "").alias("shape"))
        .agg(F.min("path").alias("file"), F.bool_or(folders.rlike("(^|/)[^=/]+/")).alias("plain"))
        .orderBy("shape")
        .limit(2)
        .collect()
    )
    if len(shapes) > 1 or any(shape["plain"] for shape in shapes):
        raise InputError(
            f"{name}.path: all files must be in the folder itself, or in folders `column=value` of the same "
            f"columns, got {' and '.join(repr(one['file']) for one in shapes)}; give each a folder of its own"
        )


_NUMBER: Final = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"


@contextmanager
def _setting(spark: SparkSession, key: str, value: str) -> Iterator[None]:
    """A Spark setting while a table's columns are found."""
    before = str(spark.conf.get(key))
    spark.conf.set(key, value)
    try:
        yield
    finally:
        spark.conf.set(key, before)


def _with_nanoseconds(spark: SparkSession, frame: DataFrame) -> DataFrame:
    """Pandas' timestamp[ns], which Spark reads as integers, as timestamps cut to microseconds."""
    if not any(isinstance(field.dataType, LongType) for field in frame.schema):
        return frame
    jvm: Any = spark._jvm
    conf = spark._jsparkSession.sessionState().newHadoopConf()
    path = jvm.org.apache.hadoop.fs.Path(jvm.java.net.URI(frame.inputFiles()[0]))
    footer = jvm.org.apache.parquet.hadoop.ParquetFileReader.open(
        jvm.org.apache.parquet.hadoop.util.HadoopInputFile.fromPath(path, conf)
    )
    try:
        fields = list(footer.getFooter().getFileMetaData().getSchema().getFields())
        kinds = {field.getName(): field.getLogicalTypeAnnotation() for field in fields}
    finally:
        footer.close()
    nanos = {name for name, kind in kinds.items() if kind is not None and "NANOS" in kind.toString()}
    columns = [
        F.timestamp_micros(F.expr(f"{quoted(one)} div 1000") - _below_zero(one)).alias(one)
        if one in nanos
        else F.col(quoted(one))
        for one in frame.columns
    ]
    return frame.select(*columns) if nanos else frame


def _below_zero(column: str) -> Column:
    """1 where a negative time was rounded up by the division, else 0."""
    return (F.col(quoted(column)) % 1000 < 0).cast("int")


def quoted(column: str) -> str:
    """A column's name as Spark parses it to this very column, with dots and backticks."""
    return "`" + column.replace("`", "``") + "`"


def require_columns(frame: DataFrame, columns: Sequence[str], name: str) -> None:
    """Refuse a table that lacks mapped columns; all are named at once.

    Raises:
        InputError: columns are missing, or one name stands for several.
    """
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise InputError(
            f"{name}: columns {missing} must exist, got {frame.columns}; fix the column names in the config"
        )
    folded = [column.lower() for column in frame.columns]
    several = [column for column in columns if folded.count(column.lower()) > 1]
    if several:
        raise InputError(
            f"{name}: columns must differ in more than capitals, got several for {several} in "
            f"{frame.columns}; rename them at their source"
        )


def require_id(frame: DataFrame, column: str, name: str) -> None:
    """Refuse an id column that is not exact: neither string, integer nor decimal without a scale.

    Raises:
        InputError: the column's type, e.g. double.
    """
    kind = frame.schema[column].dataType
    whole = isinstance(kind, DecimalType) and kind.scale == 0
    if not (whole or isinstance(kind, StringType | IntegralType)):
        raise InputError(
            f"{name}.{column} must be a string or integer id, got {kind.simpleString()}; "
            "cast it at its source"
        )


def as_id(column: str) -> Column:
    """The id as exact text; null where it is missing: null, empty or blank, which would join strangers."""
    text = F.col(quoted(column)).cast("string")
    return F.when(text.rlike(r"(?U)\S"), text)


def as_number(frame: DataFrame, column: str, name: str) -> Column:
    """The column as double: null where it was null, NaN where a text is no number.

    Raises:
        InputError: the column's type can hold no number.
    """
    kind: DataType = frame.schema[column].dataType
    if isinstance(kind, StringType):
        text = F.trim(F.col(quoted(column)))
        empty = text.isNull() | (text == "")
        parsed = F.when(text.rlike(_NUMBER), text).try_cast("double")  # Spark takes `5f` and `5d`, too
        return F.when(empty, F.lit(None).cast("double")).otherwise(F.coalesce(parsed, F.lit(float("nan"))))
    if isinstance(kind, NumericType | BooleanType):
        return F.col(quoted(column)).cast("double")
    raise InputError(
        f"{name}.{column} must be numeric, got {kind.simpleString()}; cast it at its source or leave it out"
    )

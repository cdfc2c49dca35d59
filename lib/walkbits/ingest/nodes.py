"""Tables of items or contexts: columns by their types to words, labels, numbers and vectors.

Which types a column of each kind may have is decided here alone. A type that gives no feature is refused by
name; a row whose vector cannot be used is set aside with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import (
    ArrayType,
    BooleanType,
    DataType,
    DateType,
    DecimalType,
    DoubleType,
    FloatType,
    IntegralType,
    NumericType,
    StringType,
    TimestampNTZType,
    TimestampType,
)

from walkbits.errors import InputError
from walkbits.ingest.quarantine import check_set_aside
from walkbits.ingest.sources import as_id, as_number, quoted, require_columns, require_id
from walkbits.ingest.words import words
from walkbits.input_settings import NodeTable

_TIMES = (DateType, TimestampType, TimestampNTZType)
_LABELS = (StringType, IntegralType, DecimalType, BooleanType, *_TIMES)
_NUMBERS = (StringType, NumericType, BooleanType, *_TIMES)
_MICROS_PER_DAY = 86_400_000_000.0


def select_nodes(frame: DataFrame, spec: NodeTable, section: str) -> DataFrame:
    """Rows of a node table by kind of feature.

    Args:
        section: `items` or `contexts`, for messages.

    Returns:
        (id STRING, name STRING, text ARRAY<STRING>, categorical ARRAY<STRING>, numbers ARRAY<DOUBLE>,
        vectors ARRAY<DOUBLE>, reason STRING, row STRING). `vectors` are those of all columns, one after
        another; `reason` says why the row must be set aside, null where it is good. A null text or label
        gives no token; a null number is null in `numbers`.

    Raises:
        InputError: a mapped column is missing or has a type that gives no such feature.
    """
    optional = [spec.name] if spec.name else []
    mapped = [spec.id_column, *optional, *spec.text, *spec.categorical, *spec.numeric, *spec.vectors]
    require_columns(frame, mapped, section)
    require_id(frame, spec.id_column, section)
    if spec.name:
        _require_type(frame, spec.name, section, (*_LABELS, NumericType), "text or a number", lists=False)
    texts = [_words(frame, column, section) for column in spec.text]
    labels = [_labels(frame, column, section) for column in spec.categorical]
    numbers = [_number(frame, column, section) for column in spec.numeric]
    vectors = [_vector(frame, column, section) for column in spec.vectors]
    return frame.select(
        as_id(spec.id_column).alias("id"),
        (F.col(quoted(spec.name)) if spec.name else F.lit(None)).cast("string").alias("name"),
        _concat(texts, "array<string>").alias("text"),
        _concat(labels, "array<string>").alias("categorical"),
        _concat([F.array(one) for one in numbers], "array<double>").alias("numbers"),
        _concat(vectors, "array<double>").alias("vectors"),
        _reason(spec).alias("reason"),
        F.to_json(F.struct(*map(quoted, dict.fromkeys(mapped)))).alias("row"),
    )


def _concat(lists: Sequence[Column], kind: str) -> Column:
    return F.concat(*lists) if lists else F.array().cast(kind)


def _require_type(
    frame: DataFrame, column: str, section: str, kinds: tuple[type[DataType], ...], rule: str, lists: bool
) -> None:
    """Refuse a column that is neither of the kinds nor, where `lists` says so, a list of one."""
    kind = frame.schema[column].dataType
    element = kind.elementType if lists and isinstance(kind, ArrayType) else kind
    if not isinstance(element, kinds):
        raise InputError(
            f"{section}.{column} must be {rule}, got {kind.simpleString()}; "
            "cast it at its source or leave it out"
        )


def _words(frame: DataFrame, column: str, section: str) -> Column:
    """Words of a text column; a list column is joined first."""
    _require_type(frame, column, section, _LABELS, "text or a list of text", lists=True)
    text = F.col(quoted(column))
    if isinstance(frame.schema[column].dataType, ArrayType):
        text = F.array_join(text.cast("array<string>"), " ")
    return words(F.coalesce(text.cast("string"), F.lit("")))


def _labels(frame: DataFrame, column: str, section: str) -> Column:
    """One token `<column>=<label>` per distinct label.

    No floats: 7 and 7.0 would be two labels, and pandas makes the one of the other where a null appears.
    """
    rule = "a label (text, integer, decimal, boolean, date, timestamp) or a list of labels"
    _require_type(frame, column, section, _LABELS, rule, lists=True)
    one = F.col(quoted(column))
    several = one if isinstance(frame.schema[column].dataType, ArrayType) else F.array(one)
    given = F.array_distinct(F.array_compact(F.coalesce(several.cast("array<string>"), F.array())))
    return F.transform(given, lambda label: F.concat(F.lit(f"{column}="), label))


def _number(frame: DataFrame, column: str, section: str) -> Column:
    """The column as double; dates and times in days since 1970, UTC."""
    rule = "a number, boolean, date or timestamp"
    _require_type(frame, column, section, _NUMBERS, rule, lists=False)
    kind = frame.schema[column].dataType
    if isinstance(kind, DateType):
        return F.unix_date(quoted(column)).cast("double")
    if isinstance(kind, TimestampType | TimestampNTZType):
        return F.unix_micros(F.col(quoted(column)).cast("timestamp")).cast("double") / F.lit(_MICROS_PER_DAY)
    return as_number(frame, column, section)


def _vector(frame: DataFrame, column: str, section: str) -> Column:
    kind = frame.schema[column].dataType
    if not (isinstance(kind, ArrayType) and isinstance(kind.elementType, FloatType | DoubleType)):
        raise InputError(
            f"{section}.{column} must be a vector, ARRAY<FLOAT> or ARRAY<DOUBLE>, got {kind.simpleString()}; "
            "cast it at its source or leave it out"
        )
    return F.col(quoted(column)).cast("array<double>")


def _reason(spec: NodeTable) -> Column:
    """The first rule that a vector of the row breaks."""

    def broken(column: str, width: int) -> Column:
        vector = F.col(quoted(column))
        unusable = F.exists(vector, lambda x: x.isNull() | F.isnan(x) | (F.abs(x) == float("inf")))
        return (
            F.when(vector.isNull(), F.lit(f"{column} is null"))
            .when(F.size(vector) != width, F.lit(f"{column} does not hold {width} numbers"))
            .when(unusable, F.lit(f"{column} holds a null, NaN or infinity"))
        )

    return F.coalesce(
        *[broken(column, width) for column, width in spec.vectors.items()], F.lit(None).cast("string")
    )


def check_nodes(nodes: DataFrame, spec: NodeTable, section: str, max_quarantined: float) -> None:
    """Refuse null and repeated ids, NaN or infinite numbers, and more rows to set aside than allowed.

    Raises:
        InputError: with counts and an example.
    """
    bad = [
        F.isnan(F.col("numbers")[i]) | (F.abs(F.col("numbers")[i]) == float("inf"))
        for i in range(len(spec.numeric))
    ]
    found = (
        nodes.groupBy("reason")
        .agg(
            F.count(F.lit(1)).alias("rows"),
            F.count_if(F.col("id").isNull()).alias("nulls"),
            *[F.count_if(one).alias(f"bad_{i}") for i, one in enumerate(bad)],
            *[F.min(F.when(one, F.col("row"))).alias(f"example_{i}") for i, one in enumerate(bad)],
        )
        .collect()
    )
    nulls = sum(row["nulls"] for row in found)
    if nulls:
        raise InputError(
            f"{section}: ids must not be null, got {nulls} null ids; filter them at their source"
        )
    for i, column in enumerate(spec.numeric):
        count = sum(row[f"bad_{i}"] for row in found)
        if count:
            example = min(row[f"example_{i}"] for row in found if row[f"bad_{i}"])
            raise InputError(
                f"{section}.{column} must be finite or null, got {count} other rows, e.g. {example}; "
                "fix them at their source"
            )
    check_set_aside(section, {row["reason"]: row["rows"] for row in found}, max_quarantined)
    repeated = usable(nodes).groupBy("id").count().where(F.col("count") > 1)
    twice = repeated.agg(F.count(F.lit(1)).alias("ids"), F.min("id").alias("example")).collect()[0]
    if twice["ids"]:
        raise InputError(
            f"{section}: ids must be unique, got {twice['ids']} repeated ids, e.g. {twice['example']!r}; "
            "keep one row per id at its source"
        )


def usable(nodes: DataFrame) -> DataFrame:
    """The rows that are not set aside."""
    return nodes.where(F.col("reason").isNull())


def no_columns(ids: DataFrame) -> DataFrame:
    """Nodes without a table, as rows of `select_nodes` that give no feature.

    Args:
        ids: (id).
    """
    tokens = [F.array().cast("array<string>").alias(name) for name in ("text", "categorical")]
    numbers = [F.array().cast("array<double>").alias(name) for name in ("numbers", "vectors")]
    return ids.select("id", *tokens, *numbers)

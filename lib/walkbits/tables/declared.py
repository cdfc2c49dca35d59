"""Checks stored and written columns against the tables that `schemas` declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, StructType

from walkbits.errors import InputError, WalkbitsError
from walkbits.schemas import Table


def check_columns(table: Table, stored: StructType, path: str) -> None:
    """Foreign columns beside the declared ones do no harm: no read selects them.

    Raises:
        InputError: a declared column is absent or of another type, as in a table of an older version.
    """
    found = {one.name: _kind(one.dataType) for one in stored.fields}
    wrong = [
        f"{one.name} {_kind(one.dataType)} (got {found.get(one.name, 'none')})"
        for one in table.schema.fields
        if found.get(one.name) != _kind(one.dataType)
    ]
    if wrong:
        raise InputError(
            f"{table.name}: the table at '{path}' must have {', '.join(wrong)}; "
            "another version of walkbits made it: pass a new --root"
        )


def conformed(table: Table, frame: DataFrame, fixed: Mapping[str, Any]) -> DataFrame:
    """The table's columns, in order and of its types.

    Args:
        fixed: Values of columns that the frame lacks; a tuple where it has the column.

    Raises:
        WalkbitsError: the frame lacks another column.
    """
    wanted = [name for name in table.names if isinstance(fixed.get(name, ()), tuple)]
    missing = sorted(set(wanted) - set(frame.columns))
    if missing:
        raise WalkbitsError(
            f"{table.name}: columns {missing} must be written, got only {sorted(frame.columns)}"
        )
    columns = []
    for declared in table.schema.fields:
        name = declared.name
        column = F.lit(fixed[name]) if name not in wanted else F.col(name)
        same = name in frame.columns and _kind(frame.schema[name].dataType) == _kind(declared.dataType)
        columns.append((column if same else column.cast(declared.dataType)).alias(name))
    return frame.select(*columns)


def _kind(data_type: DataType) -> str:
    """The type without the nullability of its elements, which no cast can narrow."""
    return data_type.simpleString()

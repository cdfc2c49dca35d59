"""What the declaration of a table is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from pyspark.sql import types

_TYPES: Final[dict[str, types.DataType]] = {
    "STRING": types.StringType(),
    "INT": types.IntegerType(),
    "BIGINT": types.LongType(),
    "FLOAT": types.FloatType(),
    "DOUBLE": types.DoubleType(),
    "DATE": types.DateType(),
    "TIMESTAMP": types.TimestampType(),
    "BOOLEAN": types.BooleanType(),
    "BINARY": types.BinaryType(),
    "ARRAY<BIGINT>": types.ArrayType(types.LongType(), containsNull=False),
    "ARRAY<FLOAT>": types.ArrayType(types.FloatType(), containsNull=False),
}


@dataclass(frozen=True)
class Column:
    """One column: `type` is a Spark DDL type; `comment` gives meaning, unit and shape."""

    name: str
    type: str
    comment: str
    nullable: bool = False


@dataclass(frozen=True)
class Table:
    """A Delta table. `key` is unique within a partition set; `checks` are enforced by Delta."""

    name: str
    comment: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    partition_by: tuple[str, ...] = ("run_id",)
    checks: dict[str, str] = field(default_factory=dict)
    compression: str = "zstd"
    """Parquet codec. Dense float vectors do not compress: `uncompressed` saves the time."""

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    @property
    def schema(self) -> types.StructType:
        """The Spark schema with comments."""
        return types.StructType(
            [
                types.StructField(c.name, _TYPES[c.type], c.nullable, {"comment": c.comment})
                for c in self.columns
            ]
        )

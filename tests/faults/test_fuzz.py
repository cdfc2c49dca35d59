"""Whatever a column holds: a run is opened, or refused in a sentence; never a trace, and never a torn table."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from support import world
from support.days import DAY
from walkbits.errors import WalkbitsError
from walkbits.stages import daily

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from(
    ["", " ", "\0", "NaN", "-0", "\U0010ffff" * 33]
)
FLOATS = st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from([-0.0, 5e-324, 1e308, float("nan")])
KINDS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "text": (pa.string(), TEXT),
    "int64": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "uint64": (pa.uint64(), st.integers(0, 2**64 - 1)),
    "int8": (pa.int8(), st.integers(-128, 127)),
    "double": (pa.float64(), FLOATS),
    "float": (pa.float32(), st.floats(width=32)),
    "boolean": (pa.bool_(), st.booleans()),
    "date": (pa.date32(), st.dates()),
    "time": (pa.timestamp("us", "UTC"), st.integers(-(2**50), 2**50)),
    "decimal": (pa.decimal128(20, 4), st.decimals(-(10**12), 10**12, places=4)),
    "bytes": (pa.binary(), st.binary(max_size=20)),
    "vector": (pa.list_(pa.float64()), st.lists(FLOATS, max_size=4)),
}
COLUMNS = {"interactions": ("product", "basket", "amount"), "items": ("product", "title", "brand", "price")}


@pytest.mark.parametrize(
    ("table", "column"), [(table, column) for table in COLUMNS for column in COLUMNS[table]]
)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_any_column_is_taken_or_refused(
    spark: SparkSession, table: str, column: str, data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from(sorted(KINDS)))
    arrow, values = KINDS[kind]
    source = getattr(world, table)().slice(0, 60)
    drawn = data.draw(st.lists(st.none() | values, min_size=60, max_size=60))
    changed = source.set_column(source.schema.get_field_index(column), column, pa.array(drawn, arrow))
    with tempfile.TemporaryDirectory() as folder:
        config = world.world_config(
            Path(folder), {"ingest.max_quarantined": data.draw(st.sampled_from([0.0, 1.0]))}
        )
        world.write_inputs(Path(folder, "inputs"), **{table: changed})
        refused = ""
        try:
            daily.open_day(spark, config, ds=DAY)
        except WalkbitsError as error:
            refused = str(error)
        assert Path(config.root).exists() == (not refused)
        assert not refused or len(refused) > 20

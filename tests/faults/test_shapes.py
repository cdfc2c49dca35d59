"""Graphs at the edge of what a graph is, and ids at the edge of what an id is, through a whole day."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession
from support import reader, world
from support.days import DAY, day_of
from walkbits.schemas import EMBEDDINGS
from walkbits.stages import daily

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def run(spark: SparkSession, folder: Path, pairs: list[tuple[str, int]], items: pa.Table) -> tuple[Path, str]:
    """A day on a graph; the root, and the run that a reader of its own finds whole."""
    config = world.world_config(folder)
    interactions = pa.table(
        {
            "product": [item for item, _ in pairs],
            "basket": pa.array([context for _, context in pairs], pa.int64()),
            "amount": [1.0] * len(pairs),
        }
    )
    world.write_inputs(folder / "inputs", interactions=interactions, items=items)
    daily.run_daily(spark, config, ds=DAY)
    run_id = reader.check(Path(config.root))
    assert run_id is not None
    return Path(config.root), run_id


TINY = {
    "one item, one context": ([("p0000", 1)], 1),
    "two items, one context": ([("p0000", 1), ("p0001", 1)], 2),
    "two items apart": ([("p0000", 1), ("p0001", 2)], 2),
    "one edge among many items": ([("p0000", 1)], 30),
    "no edge shared": ([(f"p{i:04d}", i) for i in range(30)], 30),
}


@pytest.mark.parametrize("case", TINY)
def test_a_tiny_or_disconnected_graph_has_a_day(spark: SparkSession, tmp_path: Path, case: str) -> None:
    pairs, count = TINY[case]
    root, run_id = run(spark, tmp_path, pairs, world.items().slice(0, count))
    assert reader.rows(root, "embeddings", run_id).num_rows == count
    assert reader.rows(root, "related", run_id).num_rows == count * min(5, count - 1)
    x = np.array(reader.rows(root, "embeddings", run_id)["embedding"].to_pylist())
    assert np.isfinite(x).all()


ODD = [
    "9223372036854775807", "-9223372036854775808", "18446744073709551615", "9007199254740993", "a'b\"c", "é\n", "Z", " z ",
    "007", "7", "`x`", "a/b=c%20", "\U0001f600" * 40, "x" * 3000, "x" * 32 + "\U0010ffff" * 3, "null", "NaN", "--",
    "; DROP TABLE t", "\\", "a\tb", "..", "run_id=1", "\u202e",
]  # fmt: skip


def test_hard_ids_come_out_as_they_went_in(spark: SparkSession, tmp_path: Path) -> None:
    rename = {f"p{i:04d}": one for i, one in enumerate(ODD)}
    interactions, items = (
        table.set_column(
            table.schema.get_field_index("product"), "product",
            pa.array([rename.get(name, name) for name in table["product"].to_pylist()]),
        )
        for table in (world.interactions(), world.items())
    )  # fmt: skip
    config = world.world_config(tmp_path)
    world.write_inputs(tmp_path / "inputs", interactions=interactions, items=items)
    daily.run_daily(spark, config, ds=DAY)
    root = Path(config.root)
    run_id = reader.check(root)
    assert run_id is not None
    for table, column in (
        ("nodes", "external_id"),
        ("embeddings", "external_id"),
        ("codes", "external_id"),
        ("lsh_buckets", "external_id"),
        ("related", "item_id"),
    ):
        assert set(ODD) <= set(reader.rows(root, table, run_id)[column].to_pylist()), table
    store = day_of(spark, config).store
    assert [store.read(EMBEDDINGS, external_id=one).count() for one in ODD] == [1] * len(
        ODD
    )  # also by its bounds


def test_a_hub_of_a_million_edges_is_walked_in_bounded_time(spark: SparkSession, tmp_path: Path) -> None:
    """One item in 10^6 contexts, beside the small world; the run ends and the hub has one row in every table."""
    base = world.interactions()
    hub = 1_000_000
    interactions = pa.concat_tables(
        [
            base,
            pa.table(
                {
                    "product": pa.array(["p0007"] * hub),
                    "basket": pa.array(np.arange(10_000, 10_000 + hub), pa.int64()),
                    "amount": pa.array(np.ones(hub)),
                }
            ),
        ]
    )
    config = world.world_config(tmp_path, {"training.context_fraction": 0.05})
    world.write_inputs(tmp_path / "inputs", interactions=interactions)
    daily.run_daily(spark, config, ds=DAY)
    root = Path(config.root)
    run_id = reader.check(root)
    assert run_id is not None
    nodes = reader.rows(root, "nodes", run_id)
    (degree,) = [row["degree"] for row in nodes.to_pylist() if row["external_id"] == "p0007"]
    assert degree >= hub
    assert reader.rows(root, "embeddings", run_id)["external_id"].to_pylist().count("p0007") == 1

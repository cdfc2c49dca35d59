"""Names of nodes for tasks: each node's own, in any order, from a folder and below a URI."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from walkbits.arrays.places import place_of
from walkbits.errors import WalkbitsError
from walkbits.tables.external_ids import ExternalIds
from walkbits.tables.rows import Rows

COUNT = 140_000


def frame(spark: SparkSession, count: int = COUNT) -> DataFrame:
    name = F.concat(F.lit("nö "), F.col("id").cast("string"))
    return spark.range(count).select(F.col("id").alias("node"), name.alias("name"))


@pytest.mark.parametrize("uri", [False, True])
def test_nodes_get_their_names_in_their_order(spark: SparkSession, tmp_path: Path, uri: bool) -> None:
    rows = frame(spark).repartition(7, F.xxhash64("node"))
    names = ExternalIds.write(Rows.of(rows), COUNT, place_of(tmp_path.as_uri()) if uri else tmp_path)
    for nodes in (
        np.arange(100, 200),
        np.random.default_rng(0).integers(0, COUNT, 999),
        np.array([COUNT - 1]),
    ):
        assert names.of(nodes).to_pylist() == [f"nö {node}" for node in nodes]
    assert len(list(tmp_path.glob("*/*.npy"))) == 1 + 7


def test_a_task_with_many_names_writes_several_files(spark: SparkSession, tmp_path: Path) -> None:
    long = frame(spark).select("node", F.lpad("name", 100, "-").alias("name")).coalesce(1)
    names = ExternalIds.write(Rows.of(long), COUNT, tmp_path)
    assert len(list(tmp_path.glob("*/*.npy"))) == 1 + 2
    nodes = np.random.default_rng(0).integers(0, COUNT, 999)
    assert names.of(nodes).to_pylist() == [f"nö {node}".rjust(100, "-") for node in nodes]


def test_a_task_without_rows_has_no_file(spark: SparkSession, tmp_path: Path) -> None:
    names = ExternalIds.write(
        Rows.of(frame(spark, 8).repartition(4).where("node > 90 OR node < 8")), 8, tmp_path
    )
    one = ExternalIds.write(Rows.of(frame(spark, 2).repartitionByRange(5, "node")), 2, tmp_path)
    assert names.of(np.arange(8)[::-1]).to_pylist() == [f"nö {node}" for node in range(8)[::-1]]
    assert one.of(np.array([1, 0, 1])).to_pylist() == ["nö 1", "nö 0", "nö 1"]


def test_names_that_are_written_anew_are_read_anew(spark: SparkSession, tmp_path: Path) -> None:
    """A worker outlives a run, and what it keeps open is of the run before."""
    first = ExternalIds.write(Rows.of(frame(spark, 10)), 10, tmp_path)
    assert first.of(np.arange(10)).to_pylist()[9] == "nö 9"
    later = frame(spark, 20).select("node", F.upper("name").alias("name"))
    assert ExternalIds.write(Rows.of(later), 20, tmp_path).of(np.arange(20)).to_pylist()[19] == "NÖ 19"


def test_a_node_without_a_name_or_with_two_is_an_error(spark: SparkSession, tmp_path: Path) -> None:
    for wrong in ("node <> 70000", "node < 100000", "node < 0"):
        with pytest.raises(WalkbitsError, match="names must be there once for each of 140000 nodes"):
            ExternalIds.write(Rows.of(frame(spark).where(wrong)), COUNT, tmp_path)
    twice = frame(spark).unionAll(frame(spark).where("node = 3"))
    with pytest.raises(WalkbitsError, match="got 140001 rows with nodes missing or doubled"):
        ExternalIds.write(Rows.of(twice), COUNT, tmp_path)

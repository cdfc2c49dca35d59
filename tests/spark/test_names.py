"""Names of nodes for tasks: each node's own, in any order, from a folder and below a URI."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from walkbits.errors import WalkbitsError
from walkbits.storage.names import Names
from walkbits.storage.places import place_of

COUNT = 140_000
"""More than two files."""


def named(spark: SparkSession, count: int = COUNT) -> DataFrame:
    name = F.concat(F.lit("nö "), F.col("id").cast("string"))
    return spark.range(count).select(F.col("id").alias("node"), name.alias("name"))


@pytest.mark.parametrize("uri", [False, True])
def test_nodes_get_their_names_in_their_order(spark: SparkSession, tmp_path: Path, uri: bool) -> None:
    rows = named(spark).repartition(7, F.xxhash64("node"))
    names = Names.write(rows, COUNT, place_of(tmp_path.as_uri()) if uri else tmp_path)
    for nodes in (
        np.arange(100, 200),
        np.random.default_rng(0).integers(0, COUNT, 999),
        np.array([COUNT - 1]),
    ):
        assert names.of(nodes).to_pylist() == [f"nö {node}" for node in nodes]
    assert len(list(tmp_path.glob("*/*.names"))) == 3


def test_names_that_are_written_anew_are_read_anew(spark: SparkSession, tmp_path: Path) -> None:
    """A worker outlives a run, and what it keeps open is of the run before."""
    first = Names.write(named(spark, 10), 10, tmp_path)
    assert first.of(np.arange(10)).to_pylist()[9] == "nö 9"
    later = named(spark, 20).select("node", F.upper("name").alias("name"))
    assert Names.write(later, 20, tmp_path).of(np.arange(20)).to_pylist()[19] == "NÖ 19"


def test_a_node_without_a_name_or_with_two_is_an_error(spark: SparkSession, tmp_path: Path) -> None:
    for wrong in ("node <> 70000", "node < 100000", "node < 65536"):
        with pytest.raises((PySparkException, WalkbitsError), match="names must be there"):
            Names.write(named(spark).where(wrong), COUNT, tmp_path)
    twice = named(spark).unionAll(named(spark).where("node = 3"))
    with pytest.raises(PySparkException, match="names must be there once for each node from 0 to 65535"):
        Names.write(twice, COUNT, tmp_path)

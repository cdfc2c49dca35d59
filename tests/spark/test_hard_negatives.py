"""Hard negatives on Spark: the pure function's rows, under any cut of the work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession
from reference.walks import random_graph
from walkbits.arrays.places import Place, place_of
from walkbits.schemas import NEIGHBORHOODS
from walkbits.settings import HardNegatives, Walks
from walkbits.training import arrays
from walkbits.training.negatives import Partners, hard_negatives_of

HARD = HardNegatives(first_rank=4, last_rank=20, num_walks=40, per_query=6)


@pytest.mark.parametrize("per_block", [3, 256])
def test_rows_are_those_of_one_process(spark: SparkSession, tmp_path: Path, per_block: int) -> None:
    csr = random_graph(80, 20, 300, 2, True).csr()
    # one of the two below a URI, whose files are not mapped in place
    place = place_of(str(tmp_path) if per_block == 3 else tmp_path.as_uri())
    csr.save(place / "graph")
    pairs = np.random.default_rng(0).integers(0, 80, (90, 2)).astype(np.int32)
    write_training_arrays(spark, pairs, place / "training")
    arrays.write_hard_negatives(spark, place / "graph", Walks(), HARD, 5, place / "training", per_block)
    found = arrays.read_training_arrays(place / "training").hard_negatives
    assert found is not None
    assert found.queries.tolist() == sorted(set(pairs[:, 0].tolist()))
    expected = hard_negatives_of(csr, found.queries, Partners.of(pairs), Walks(), HARD, 5)
    np.testing.assert_array_equal(found.items, expected)
    assert 0 < found.coverage <= 1


def test_without_them_there_are_none_to_read(spark: SparkSession, tmp_path: Path) -> None:
    write_training_arrays(spark, np.int32([[0, 1]]), tmp_path)
    assert arrays.read_training_arrays(tmp_path).hard_negatives is None


def write_training_arrays(spark: SparkSession, pairs: np.ndarray, folder: Place) -> None:
    """Features and neighborhoods of 80 items, of which only the pairs matter here."""
    nodes = spark.range(80).selectExpr("cast(id as int) as node_id", "unhex('00000000') as features")
    arrays.write_training_arrays(
        features=nodes, neighborhoods=spark.createDataFrame([], NEIGHBORHOODS.schema),
        pairs=spark.createDataFrame(pairs.tolist(), "query int, positive int"),
        num_items=80, feature_width=1, num_neighbors=2, folder=folder,
    )  # fmt: skip

"""Hard negatives on Spark: the pure function's rows, under any cut of the work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from reference.plain import packed
from reference.walks import random_graph
from walkbits import settings
from walkbits.arrays.mapped import open_array
from walkbits.arrays.places import place_of
from walkbits.models.base import Shapes
from walkbits.models.item_pool import ItemPool
from walkbits.models.pinsage import PinSage
from walkbits.settings import Training, Walks
from walkbits.training import arrays
from walkbits.training.negatives import HardNegatives, Partners, hard_negatives_of

HARD = settings.HardNegatives(first_rank=4, last_rank=20, num_walks=40, per_query=6)


@pytest.mark.parametrize("per_block", [3, 256])
def test_rows_are_those_of_one_process(spark: SparkSession, tmp_path: Path, per_block: int) -> None:
    csr = random_graph(80, 20, 300, 2, True).csr()
    # one of the two below a URI, whose files are not mapped in place
    place = place_of(str(tmp_path) if per_block == 3 else tmp_path.as_uri())
    csr.save(place / "graph")
    pairs = np.random.default_rng(0).integers(0, 80, (90, 2)).astype(np.int32)
    arrays.write_pairs(pairs_frame(spark, pairs), place / "training")
    arrays.write_hard_negatives(spark, place / "graph", Walks(), HARD, 5, place / "training", per_block)
    found = HardNegatives(*(open_array(place / "training" / f"{name}.npy") for name in ("queries", "hard")))
    assert found.queries.tolist() == sorted(set(pairs[:, 0].tolist()))
    expected = hard_negatives_of(csr, found.queries, Partners.of(pairs), Walks(), HARD, 5)
    np.testing.assert_array_equal(found.items, expected)
    assert 0 < found.coverage <= 1


def pairs_frame(spark: SparkSession, pairs: np.ndarray) -> DataFrame:
    return spark.createDataFrame(pairs.tolist(), "query int, positive int")


def test_training_data_is_what_was_written(spark: SparkSession, tmp_path: Path) -> None:
    csr = random_graph(30, 20, 100, 2, True).csr()
    model, shapes = PinSage(), Shapes({"item": 30, "context": 20}, {"item": 2})
    features = spark.range(30).selectExpr("id as node_id", "unhex('0000803f00000040') as features")
    arrays.write_features(features, "item", 30, 2, tmp_path)
    lists = spark.createDataFrame(
        [(u, packed([1, 2, 3]), packed([3, 2, 1])) for u in range(0, 30, 2)],
        "node int, neighbors binary, visits binary",
    )
    arrays.write_neighborhoods(lists, "item_from_item", 30, 2, tmp_path)
    arrays.write_pairs(pairs_frame(spark, np.int32([[0, 1], [4, 2]])), tmp_path)
    network = model.network(shapes)
    data = arrays.read_training_data(tmp_path, csr, network, model.fit(), Training(), 0)
    assert data.features["item"].tolist() == [[1, 2]] * 30
    walked = data.relations["item_from_item"]
    assert walked.indptr.tolist() == [0, *(2 * (u // 2 + 1) for u in range(30))]
    assert set(walked.neighbors.tolist()) == {1, 2}
    assert (data.examples.query.tolist(), data.examples.positive.tolist()) == ([0, 4], [1, 2])
    assert data.hard_negatives is None
    pool = ItemPool()
    data = arrays.read_training_data(
        tmp_path, csr, pool.network(shapes), pool.fit(), Training(context_fraction=1.0), 0
    )
    np.testing.assert_array_equal(data.examples.positive, csr.context.indices)
    np.testing.assert_array_equal(data.relations["context_from_item.edges"].neighbors, csr.context.indices)

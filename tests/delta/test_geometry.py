"""The figures that give away embeddings which say nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession
from walkbits.runs.audit import gates
from walkbits.runs.geometry import geometry
from walkbits.schemas import EMBEDDINGS, NEIGHBORHOODS
from walkbits.settings import Audit
from walkbits.tables.store import Store

RUN, ITEMS = "20260131-0a1b2c3d-a1", 300
GROUP = np.arange(ITEMS) % 6


def planted() -> np.ndarray:
    """Six directions, each with noise of its own: [items, 8]."""
    chance = np.random.default_rng(1)
    x = np.eye(8)[GROUP] + 0.2 * chance.standard_normal((ITEMS, 8))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def some_zero() -> np.ndarray:
    x = planted()
    x[: ITEMS // 2] = 0
    return x


def shuffled() -> np.ndarray:
    """Good vectors of the wrong items."""
    return planted()[np.random.default_rng(2).permutation(ITEMS)]


CASES = {
    "planted": (planted(), set()),
    "zero": (np.zeros((ITEMS, 8)), {"max_zero_vectors", "min_distinct_vectors"}),
    "half zero": (some_zero(), {"max_zero_vectors"}),
    "constant": (np.ones((ITEMS, 8)) / 8**0.5, {"min_distinct_vectors", "max_random_cosine"}),
    "collapsed": (planted() + 5, {"max_random_cosine"}),
    "of other items": (shuffled(), {"min_neighbor_lift"}),
}


@pytest.mark.parametrize("case", CASES)
def test_each_kind_of_garbage_breaks_its_gate(spark: SparkSession, tmp_path: Path, case: str) -> None:
    x, expected = CASES[case]
    store = Store(spark, str(tmp_path / "root"))
    rows = [("item", i, f"p{i}", [float(v) for v in x[i]], 0.0) for i in range(ITEMS)]
    store.write(
        EMBEDDINGS,
        spark.createDataFrame(
            rows, "node_type string, node_id bigint, external_id string, embedding array<float>, prior float"
        ),
        RUN,
    )
    lists = [
        (i, np.array([(i + 6) % ITEMS, (i + 12) % ITEMS], "<i4").tobytes(), np.ones(2, "<i4").tobytes())
        for i in range(ITEMS)
    ]
    frame = spark.createDataFrame(
        [(n, bytearray(a), bytearray(b)) for n, a, b in lists], "node int, neighbors binary, visits binary"
    )
    store.write(NEIGHBORHOODS, frame, RUN, relation="item_from_item")
    rules = Audit(min_neighbor_lift=0.3) if "min_neighbor_lift" in expected else Audit()
    broken = {
        text.split(":")[0].removeprefix("audit.")
        for text in gates(geometry(store, RUN, 5, ITEMS), None, rules)
    }
    assert broken == expected


def test_pairs_of_a_small_catalogue_are_not_judged(spark: SparkSession, tmp_path: Path) -> None:
    store = Store(spark, str(tmp_path / "root"))
    schema = "node_type string, node_id bigint, external_id string, embedding array<float>, prior float"
    store.write(EMBEDDINGS, spark.createDataFrame([("item", 0, "p", [1.0, 0.0], 0.0)], schema), RUN)
    assert geometry(store, RUN, 5, 1) == {"zero_vectors[item]": (0.0, "ratio")}

"""The figures that give away embeddings which say nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession
from walkbits.index.buckets import buckets_from_codes
from walkbits.index.codes import pack_bits
from walkbits.runs.audit import gates
from walkbits.runs.geometry import code_health, geometry
from walkbits.schemas import CODES, EMBEDDINGS, LSH_BUCKETS, NEIGHBORHOODS
from walkbits.settings import Audit, Index
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


def test_codes_are_judged_by_their_bits_and_buckets(spark: SparkSession, tmp_path: Path) -> None:
    store = Store(spark, str(tmp_path / "root"))
    bits = np.random.default_rng(3).random((ITEMS, 64)) < 0.3
    bits[:, :24] = True
    rows = [(64, "item", i, f"p{i}", code.tolist(), 1.0, -1) for i, code in enumerate(pack_bits(bits))]
    names = "code_bits int, node_type string, node_id bigint, external_id string"
    codes = spark.createDataFrame(rows, f"{names}, code array<bigint>, scale float, prior_code bigint")
    index = Index(code_bits=(64,), lsh_bits=64)
    store.write(CODES, codes, RUN)
    store.write(LSH_BUCKETS, buckets_from_codes(codes, index), RUN)
    figures = {name: value for name, (value, _) in code_health(store, RUN, 64, 5, ITEMS).items()}
    populations = np.concatenate(
        [
            np.unique(np.packbits(bits[:, at : at + 8], axis=1), return_counts=True)[1]
            for at in range(0, 64, 8)
        ]
    )
    pairs = np.abs(populations[:, None] - populations).sum()
    correlation, share = np.corrcoef(bits[:, 24:], rowvar=False), bits[:, 24:].mean(axis=0)
    assert figures == pytest.approx(
        {
            "constant_bits[item]": 24 / 64,
            "bit_balance[item]": 1 - np.abs(2 * bits.mean(axis=0) - 1).mean(),
            "bit_entropy[item]": -(share * np.log2(share) + (1 - share) * np.log2(1 - share)).sum() / 64,
            "bit_correlation[item]": np.abs(correlation[~np.eye(40, dtype=bool)]).mean(),
            "bucket_gini": pairs / (2 * len(populations) * populations.sum()),
        }
    )
    (sentence,) = gates({"constant_bits[item]": (24 / 64, "ratio")}, None, Audit())
    assert sentence.startswith("audit.max_constant_bits")

"""Codes, buckets and related items on Spark equal the pure functions, under any partitioning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyspark.errors import PythonException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from walkbits import schemas
from walkbits.arrays.places import Place, place_of
from walkbits.errors import EmptyInputError, InputError
from walkbits.index.buckets import buckets_from_codes, buckets_of
from walkbits.index.codes import codes_from_embeddings, encode, pack_bits, pack_bits_sql, rotation
from walkbits.index.exact import QUERY_BLOCK, top_k
from walkbits.index.related import related_items
from walkbits.settings import Index, Lsh

SIZE, NUM_ITEMS, NUM_CONTEXTS = 24, 2 * QUERY_BLOCK + 40, 60
INDEX = Index(code_bits=(64, 192), lsh_bits=192, lsh=Lsh(band_bits=12))


def random_vectors() -> np.ndarray:
    """Some rows repeat and one is zero, so that ties and zeros are there."""
    x = np.random.default_rng(6).standard_normal((NUM_ITEMS + NUM_CONTEXTS, SIZE)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    x[300:340] = x[7]
    x[5] = 0
    return x


X = random_vectors()


def embeddings(spark: SparkSession, partitions: int, order: np.ndarray | None = None) -> DataFrame:
    """All nodes; external ids sort otherwise than node ids."""
    rows = np.arange(len(X)) if order is None else order
    table = pa.table(
        {
            "node_type": [schemas.ITEM if row < NUM_ITEMS else schemas.CONTEXT for row in rows],
            "node_id": rows,
            "external_id": [f"n{len(X) - row}" for row in rows],
            "embedding": pa.array(list(X[rows]), pa.list_(pa.float32())),
        }
    )
    return spark.createDataFrame(table).repartition(partitions)


def items(nodes: DataFrame) -> DataFrame:
    return nodes.where(F.col("node_type") == schemas.ITEM)


def test_codes_equal_the_pure_function(spark: SparkSession) -> None:
    codes = codes_from_embeddings(embeddings(spark, 3), INDEX, seed=9)
    assert codes.columns == [name for name in schemas.CODES.names if name != "run_id"]
    for bits in INDEX.code_bits:
        found = codes.where(F.col("code_bits") == bits).orderBy("node_id").toPandas()
        code, scale = encode(X, rotation(9, SIZE, bits))
        assert found["code"].map(list).tolist() == code.tolist()
        np.testing.assert_array_equal(found["scale"].to_numpy(np.float32), scale)
        assert found["external_id"].tolist() == [f"n{len(X) - row}" for row in range(len(X))]


def test_learned_codes_skip_the_rotation(spark: SparkSession) -> None:
    learned = Index(code_bits=(64,), lsh_bits=64)
    wide = np.concatenate([X, X, X], axis=1)[:50, :64]
    table = pa.table({"node_id": range(50), "embedding": pa.array(list(wide), pa.list_(pa.float32()))})
    nodes = spark.createDataFrame(table).select(
        F.lit(schemas.ITEM).alias("node_type"), "node_id", F.lit("x").alias("external_id"), "embedding"
    )
    found = codes_from_embeddings(nodes, learned, seed=0, rotate=False).orderBy("node_id").toPandas()
    assert found["code"].map(list).tolist() == pack_bits(wide).tolist()
    with pytest.raises(PythonException, match="at least 128 coordinates"):
        codes_from_embeddings(nodes, Index(code_bits=(128,)), seed=0, rotate=False).collect()


def test_sql_packs_the_same_bits(spark: SparkSession) -> None:
    x = np.random.default_rng(1).standard_normal((40, 128)).astype(np.float32)
    x[0], x[1, ::2], x[2] = 0, -0.0, 1
    table = pa.table({"row": range(40), "x": pa.array(list(x), pa.list_(pa.float32()))})
    packed = spark.createDataFrame(table).select("row", F.expr(pack_bits_sql("x", 128)).alias("code"))
    assert packed.schema["code"].dataType.simpleString() == "array<bigint>"
    assert [row["code"] for row in packed.orderBy("row").collect()] == pack_bits(x).tolist()


@pytest.mark.parametrize(("lsh_bits", "band_bits"), [(192, 12), (64, 8), (64, 32)])
def test_buckets_equal_the_pure_function(spark: SparkSession, lsh_bits: int, band_bits: int) -> None:
    index = Index(code_bits=(64, 192), lsh_bits=lsh_bits, lsh=Lsh(band_bits=band_bits))
    buckets = buckets_from_codes(codes_from_embeddings(embeddings(spark, 2), index, seed=9), index)
    assert buckets.columns == [name for name in schemas.LSH_BUCKETS.names if name != "run_id"]
    found = buckets.orderBy("node_id", "band").toPandas()
    expected = buckets_of(encode(X[:NUM_ITEMS], rotation(9, SIZE, lsh_bits))[0], band_bits)
    assert found["bucket"].tolist() == expected.ravel().tolist()
    assert found["band"].tolist() == list(range(lsh_bits // band_bits)) * NUM_ITEMS
    assert dict(buckets.dtypes) == {
        "band": "int", "bucket": "bigint", "node_id": "bigint", "external_id": "string"
    }  # fmt: skip


def test_related_items_are_the_exact_lists(spark: SparkSession, tmp_path: Path) -> None:
    related = related_items(spark, items(embeddings(spark, 3)), 10, tmp_path)
    assert related.columns == [name for name in schemas.RELATED.names if name != "run_id"]
    found = related.toPandas().sort_values(["item_id", "rank"])
    itself = (np.arange(NUM_ITEMS + 1), np.arange(NUM_ITEMS))
    expected, scores = top_k(X[:NUM_ITEMS], X[:NUM_ITEMS], 10, itself)
    lists = found.groupby("item_id")
    assert lists.ngroups == NUM_ITEMS
    for item, listed in lists:
        node = len(X) - int(item[1:])
        assert listed["rank"].tolist() == list(range(1, 11))
        assert [len(X) - int(one[1:]) for one in listed["related_id"]] == expected[node].tolist()
        np.testing.assert_array_equal(listed["score"].to_numpy(np.float32), scores[node])


@pytest.mark.parametrize("partitions", [1, 5])
def test_nothing_depends_on_partitioning_row_order_or_place(
    spark: SparkSession, tmp_path: Path, partitions: int
) -> None:
    def fingerprints(nodes: DataFrame, folder: Place) -> list[tuple[int, int]]:
        codes = codes_from_embeddings(nodes, INDEX, seed=2)
        tables = codes, buckets_from_codes(codes, INDEX), related_items(spark, items(nodes), 7, folder)
        return [
            tuple(table.agg(F.count("*"), F.expr("bit_xor(xxhash64(*))")).collect()[0]) for table in tables
        ]

    order = np.random.default_rng(partitions).permutation(len(X))
    records = "spark.sql.execution.arrow.maxRecordsPerBatch"
    plain = fingerprints(embeddings(spark, 3), tmp_path / "plain")
    before = spark.conf.get(records)
    try:
        spark.conf.set(records, 37)
        far = place_of((tmp_path / "far").as_uri())
        shuffled = fingerprints(embeddings(spark, partitions, order), far)
    finally:
        spark.conf.set(records, before)
    assert shuffled == plain


def test_a_small_catalogue_lists_all_others(spark: SparkSession, tmp_path: Path) -> None:
    few = items(embeddings(spark, 2)).where("node_id < 3")
    found = related_items(spark, few, 10, tmp_path / "three").collect()
    assert sorted((row["item_id"], row["rank"]) for row in found) == sorted(
        (f"n{len(X) - node}", rank) for node in range(3) for rank in (1, 2)
    )
    assert related_items(spark, few.where("node_id < 1"), 10, tmp_path / "one").collect() == []


def test_related_refuses_what_it_cannot_rank(spark: SparkSession, tmp_path: Path) -> None:
    nodes = items(embeddings(spark, 2))
    with pytest.raises(EmptyInputError, match="embeddings"):
        related_items(spark, nodes.limit(0), 5, tmp_path)
    with pytest.raises(InputError, match="each once"):
        related_items(spark, nodes.where("node_id != 4"), 5, tmp_path)
    ragged = F.when(F.col("node_id") == 2, F.slice("embedding", 1, 3)).otherwise(F.col("embedding"))
    with pytest.raises(InputError, match="one size"):
        related_items(spark, nodes.withColumn("embedding", ragged), 5, tmp_path)


def test_codes_of_nothing_are_refused(spark: SparkSession) -> None:
    with pytest.raises(EmptyInputError, match="embeddings"):
        codes_from_embeddings(embeddings(spark, 1).limit(0), INDEX, seed=0)

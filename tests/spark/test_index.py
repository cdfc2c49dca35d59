"""Codes, buckets and related items on Spark equal the pure functions, under any partitioning."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pytest
from chispa import assert_df_equality
from pyspark.errors import PythonException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from reference.buckets import buckets_of
from walkbits import schemas
from walkbits.arrays.mapped import save_array
from walkbits.arrays.places import Place, place_of
from walkbits.errors import ConfigError, EmptyInputError, InputError
from walkbits.index.buckets import buckets_from_codes
from walkbits.index.codes import Coder, codes_from_embeddings, pack_bits, pack_bits_sql, prior_codes
from walkbits.index.exact import QUERY_BLOCK, top_k
from walkbits.index.matrices import Form, Supported, as_they_are
from walkbits.index.nearest import Batch, Itself, nearest
from walkbits.index.plan import Plan
from walkbits.index.related import Seen, recommended_items, related_items
from walkbits.network.arithmetic import supported
from walkbits.settings import Index, Lsh
from walkbits.tables.external_ids import ExternalIds
from walkbits.tables.rows import Rows

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
PRIOR = np.random.default_rng(6).uniform(-1, 0.5, len(X)).astype(np.float32)


def embeddings(spark: SparkSession, partitions: int, order: np.ndarray | None = None) -> DataFrame:
    """All nodes; external ids sort otherwise than node ids."""
    rows = np.arange(len(X)) if order is None else order
    table = pa.table(
        {
            "node_type": [schemas.ITEM if row < NUM_ITEMS else schemas.CONTEXT for row in rows],
            "node_id": rows,
            "external_id": [f"n{len(X) - row}" for row in rows],
            "embedding": pa.array(list(X[rows]), pa.list_(pa.float32())),
            "prior": pa.array(np.where(rows < NUM_ITEMS, PRIOR[rows], 0), pa.float32()),
        }
    )
    return spark.createDataFrame(table).repartition(partitions)


def items(nodes: DataFrame) -> DataFrame:
    return nodes.where(F.col("node_type") == schemas.ITEM)


def test_codes_equal_the_pure_function(spark: SparkSession) -> None:
    codes = codes_from_embeddings(embeddings(spark, 3), INDEX, seed=9, learned=False)
    assert codes.columns == [name for name in schemas.CODES.names if name != "run_id"]
    for bits in INDEX.code_bits:
        found = codes.where(F.col("code_bits") == bits).orderBy("node_id").toPandas()
        coder = Coder.of(INDEX, 9, SIZE, learned=False)
        code, scale = coder.encode(X, bits)
        assert found["code"].map(list).tolist() == code.tolist()
        np.testing.assert_array_equal(found["scale"].to_numpy(np.float32), scale)
        prior = PRIOR[:NUM_ITEMS]
        ones = prior_codes(prior, float(prior.max()), coder.worth(bits)).tolist()
        assert found["prior_code"].tolist() == [*ones, *[-1] * (len(X) - NUM_ITEMS)]
        assert found["external_id"].tolist() == [f"n{len(X) - row}" for row in range(len(X))]


def test_learned_codes_skip_the_rotation(spark: SparkSession) -> None:
    learned = Index(code_bits=(64,), lsh_bits=64)
    wide = np.concatenate([X, X, X], axis=1)[:50, :64]
    table = pa.table({"node_id": range(50), "embedding": pa.array(list(wide), pa.list_(pa.float32()))})
    nodes = spark.createDataFrame(table).select(
        F.lit(schemas.ITEM).alias("node_type"),
        "node_id",
        F.lit("x").alias("external_id"),
        "embedding",
        F.lit(0.0).cast("float").alias("prior"),
    )
    found = codes_from_embeddings(nodes, learned, seed=0, learned=True).orderBy("node_id").toPandas()
    assert found["code"].map(list).tolist() == pack_bits(wide).tolist()
    with pytest.raises(PythonException, match="at least 128 coordinates"):
        codes_from_embeddings(nodes, Index(code_bits=(128,)), seed=0, learned=True).collect()


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
    buckets = buckets_from_codes(
        codes_from_embeddings(embeddings(spark, 2), index, seed=9, learned=False), index
    )
    assert buckets.columns == [name for name in schemas.LSH_BUCKETS.names if name != "run_id"]
    found = buckets.orderBy("node_id", "band").toPandas()
    coder = Coder.of(index, 9, SIZE, learned=False)
    expected = buckets_of(coder.encode(X[:NUM_ITEMS], lsh_bits)[0], band_bits)
    assert found["bucket"].tolist() == expected.ravel().tolist()
    assert found["band"].tolist() == list(range(lsh_bits // band_bits)) * NUM_ITEMS
    assert dict(buckets.dtypes) == {
        "band": "int", "bucket": "bigint", "node_id": "bigint", "external_id": "string"
    }  # fmt: skip


def names(spark: SparkSession, folder: Place) -> ExternalIds:
    """Those of `embeddings`."""
    rows = [(node, f"n{len(X) - node}") for node in range(len(X))]
    return ExternalIds.write(Rows.of(spark.createDataFrame(rows, "node bigint, name string")), len(X), folder)


def related(
    nodes: DataFrame,
    folder: Path,
    index: Index,
    num_items: int = NUM_ITEMS,
    size: int = SIZE,
    scored: Form | None = None,
) -> tuple[DataFrame, Plan]:
    spark = nodes.sparkSession
    rows = Rows.of(items(nodes).select("node_id", "embedding"))
    named = names(spark, folder / "names")
    place = place_of(str(folder))
    found, plan = related_items(spark, rows, num_items, size, named, index, 3, place, scored=scored)
    return found.to_frame(), plan


def expected_lists(spark: SparkSession, found: np.ndarray, scores: np.ndarray) -> DataFrame:
    """Lists by node as rows of table `related`."""
    rows = [
        (f"n{len(X) - node}", rank + 1, f"n{len(X) - other}", float(score))
        for node, (others, own) in enumerate(zip(found.tolist(), scores, strict=True))
        for rank, (other, score) in enumerate(zip(others, own, strict=True))
    ]
    return spark.createDataFrame(rows, "item_id string, rank int, related_id string, score float")


def test_related_items_are_the_exact_lists(spark: SparkSession, tmp_path: Path) -> None:
    found, plan = related(embeddings(spark, 3), tmp_path, Index(num_related=10))
    itself = (np.arange(NUM_ITEMS + 1), np.arange(NUM_ITEMS))
    expected = expected_lists(spark, *top_k(X[:NUM_ITEMS], X[:NUM_ITEMS], 10, itself))
    assert_df_equality(found, expected, ignore_row_order=True, ignore_nullable=True)
    assert (plan.gap, plan.recall) == (None, 1.0)


@pytest.mark.parametrize("recall", [0.6, 0.9])
def test_a_search_by_cells_finds_what_it_expects(spark: SparkSession, tmp_path: Path, recall: float) -> None:
    index = Index(num_related=10, exact="never", target_recall=recall)
    lists, plan = related(embeddings(spark, 3), tmp_path, index)
    itself = (np.arange(NUM_ITEMS + 1), np.arange(NUM_ITEMS))
    exact = expected_lists(spark, *top_k(X[:NUM_ITEMS], X[:NUM_ITEMS], 10, itself))
    found = lists.cache()
    assert found.count() == found.select("item_id", "rank").distinct().count() == NUM_ITEMS * 10
    nodes = [len(X) - int(row["item_id"][1:]) for row in found.collect()]
    assert nodes == sorted(nodes)  # clustered for lookups
    assert found.where("item_id = related_id").count() == 0
    share = found.join(exact, ["item_id", "related_id", "score"]).count() / exact.count()
    assert plan.gap is not None
    assert recall <= plan.recall
    assert plan.scored < NUM_ITEMS
    # at least: a list that its cells do not fill is filled by a scan
    assert share >= plan.recall - 4 * plan.error - 1e-9


def test_a_recall_that_no_cells_reach_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    """Random directions: the lists of a query are spread over more cells than it may score."""
    x = np.random.default_rng(0).standard_normal((10_000, 64)).astype(np.float32)
    save_array(tmp_path / "x.npy", x)
    longest = float(np.linalg.norm(x, axis=1).max()) * (1 + 1e-6)
    batch = Batch(tmp_path / "x.npy", tmp_path / "x.npy", len(x), len(x), longest, 10, Itself())
    with pytest.raises(
        ConfigError, match=r"index.target_recall must be at most 0\.\d+, the recall of 256 cells"
    ):
        nearest(spark, batch, Index(exact="never", target_recall=0.9999), 0, tmp_path)


def test_recommended_items_add_the_prior_and_leave_out_what_was_seen(
    spark: SparkSession, tmp_path: Path
) -> None:
    prior = -np.arange(NUM_ITEMS, dtype=np.float32) / NUM_ITEMS
    rng = np.random.default_rng(1)
    touched = [
        np.sort(rng.choice(NUM_ITEMS, size, replace=False)) for size in rng.integers(0, 9, NUM_CONTEXTS)
    ]
    touched[4] = np.arange(NUM_ITEMS - 3)  # fewer than k are left
    seen = Seen(tmp_path / "indptr.npy", tmp_path / "indices.npy")
    save_array(seen.indptr, np.cumsum([0, *map(len, touched)]))
    save_array(seen.indices, np.concatenate(touched).astype(np.int32))
    nodes = embeddings(spark, 3).withColumn("prior", (-F.col("node_id") / NUM_ITEMS).cast("float"))
    rows = {
        kind: Rows.of(nodes.where(F.col("node_type") == kind).select("node_id", "embedding", "prior"))
        for kind in (schemas.ITEM, schemas.CONTEXT)
    }
    scores = X[NUM_ITEMS:].astype(np.float64) @ X[:NUM_ITEMS].T + prior
    for context, own in enumerate(touched):
        scores[context, own] = -np.inf
    for exact in ("always", "never"):
        found, _ = recommended_items(
            spark, rows["item"], rows["context"], NUM_ITEMS, NUM_CONTEXTS, SIZE, seen,
            names(spark, tmp_path / exact), Index(num_recommended=6, exact=exact, target_recall=0.99), 3, tmp_path / exact,
        )  # fmt: skip
        listed = found.to_frame().orderBy("rank").collect()
        hits = 0
        for context, own in enumerate(touched):
            mine = [row for row in listed if row["context_id"] == f"n{len(X) - NUM_ITEMS - context}"]
            assert [row["rank"] for row in mine] == list(range(1, min(6, NUM_ITEMS - len(own)) + 1))
            items_ = [len(X) - int(row["item_id"][1:]) for row in mine]
            np.testing.assert_allclose([row["score"] for row in mine], scores[context, items_], atol=1e-6)
            best = np.argsort(-scores[context], kind="stable")[: len(mine)]
            hits += len(set(best.tolist()) & set(items_))
        assert hits / len(listed) >= (1 if exact == "always" else 0.97)


@pytest.mark.parametrize("partitions", [1, 5])
def test_nothing_depends_on_partitioning_row_order_or_place(
    spark: SparkSession, tmp_path: Path, partitions: int
) -> None:
    def fingerprints(nodes: DataFrame, folder: Place) -> list[tuple[int, int]]:
        codes = codes_from_embeddings(nodes, INDEX, seed=2, learned=False)
        tables = [codes, buckets_from_codes(codes, INDEX)]
        for exact in ("always", "never"):
            index = Index(num_related=7, exact=exact, target_recall=0.8)
            rows, place = Rows.of(items(nodes).select("node_id", "embedding")), folder / exact
            named = names(spark, place / "names")
            tables.append(related_items(spark, rows, NUM_ITEMS, SIZE, named, index, 3, place)[0].to_frame())
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


@pytest.mark.parametrize("exact", ["auto", "always", "never"])
@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_a_small_catalogue_lists_all_others(
    spark: SparkSession, tmp_path: Path, count: int, exact: Literal["auto", "always", "never"]
) -> None:
    few = embeddings(spark, 2).where(F.col("node_id") < count)
    found, _ = related(few, tmp_path, Index(num_related=10, exact=exact), num_items=count)
    assert sorted((row["item_id"], row["rank"]) for row in found.collect()) == sorted(
        (f"n{len(X) - node}", rank) for node in range(count) for rank in range(1, count)
    )


@pytest.mark.parametrize("exact", ["always", "never"])
def test_related_items_count_by_their_contexts(
    spark: SparkSession, tmp_path: Path, exact: Literal["always", "never"]
) -> None:
    contexts = np.arange(NUM_ITEMS) % 23
    indptr = tmp_path / "item_indptr.npy"
    np.save(indptr, np.concatenate([[0], np.cumsum(contexts)]).astype(np.int32))
    scored = Supported(as_they_are, place_of(str(indptr)), 10.0)
    index = Index(num_related=10, exact=exact, target_recall=0.999)
    lists, _ = related(embeddings(spark, 3), tmp_path, index, scored=scored)
    itself = (np.arange(NUM_ITEMS + 1), np.arange(NUM_ITEMS))
    x = X[:NUM_ITEMS]
    expected = expected_lists(spark, *top_k(x, x * supported(contexts, 10.0)[:, None], 10, itself))
    found = lists.join(expected.withColumnRenamed("score", "wanted"), ["item_id", "rank", "related_id"])
    assert found.where("abs(score - wanted) < 1e-6").count() >= 0.99 * expected.count()


def test_related_refuses_what_it_cannot_rank(spark: SparkSession, tmp_path: Path) -> None:
    nodes = embeddings(spark, 2)
    with pytest.raises(EmptyInputError, match="embeddings"):
        related(nodes.limit(0), tmp_path, INDEX, num_items=0)
    with pytest.raises(InputError, match="each once"):
        related(nodes.where("node_id != 4"), tmp_path, INDEX)
    ragged = F.when(F.col("node_id") == 2, F.slice("embedding", 1, 3)).otherwise(F.col("embedding"))
    with pytest.raises(PythonException, match="one size"):
        related(nodes.withColumn("embedding", ragged), tmp_path, INDEX)


def test_codes_of_nothing_are_refused(spark: SparkSession) -> None:
    with pytest.raises(EmptyInputError, match="embeddings"):
        codes_from_embeddings(embeddings(spark, 1).limit(0), INDEX, seed=0, learned=False)

"""A lookup of one item on published tables reads a few files, and of those a few row groups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from walkbits.index.buckets import buckets_from_codes, clustered
from walkbits.runs.cost import spark_stages
from walkbits.schemas import LSH_BUCKETS, RELATED, Table
from walkbits.settings import Index, Lsh
from walkbits.tables.rows import Batches, Rows
from walkbits.tables.store import Store

RUN = "20260101-aaaaaaaa-a1"
ITEMS, K, PARTS = 60_000, 20, 6


def read_by(spark: SparkSession, query: DataFrame, name: str) -> tuple[int, int, list[object]]:
    """Files that are left after Delta's pruning, bytes that tasks read, and the rows."""
    spark.sparkContext.setJobGroup(name, name)
    rows = query.collect()
    spark.sparkContext._jsc.sc().listenerBus().waitUntilEmpty()
    read = sum(stage.read for stage in spark_stages(spark, name))
    return len(query.inputFiles()), read, rows


def size_of(store: Store, table: Table) -> tuple[int, int]:
    files = [*Path(store.path(table)).rglob("*.parquet")]
    return len(files), sum(file.stat().st_size for file in files)


def lists(numbers: Batches) -> Batches:
    """Lists of a part's items, a stretch as `index.nearest` makes them."""
    for batch in numbers:
        for part in batch.column(0).to_pylist():
            for some in np.array_split(np.array_split(np.arange(ITEMS), PARTS)[part], 8):
                item = np.repeat(some, K)
                found = (item * 7919 + np.tile(np.arange(K), len(some)) * 104_729) % ITEMS
                yield pa.RecordBatch.from_pydict(
                    {
                        "item_id": pa.array([f"i{one:06d}" for one in item.tolist()]),
                        "rank": np.tile(np.arange(1, K + 1, dtype=np.int32), len(some)),
                        "related_id": pa.array([f"i{one:06d}" for one in found.tolist()]),
                        "score": (1 - item / ITEMS).astype(np.float32),
                    }
                )


def test_the_lists_of_one_item(spark: SparkSession, tmp_path: Path) -> None:
    store = Store(spark, str(tmp_path))
    numbers = Rows.of(spark.range(0, PARTS, 1, PARTS))
    store.write_rows(
        RELATED, [numbers.then(lists, "item_id STRING, rank INT, related_id STRING, score FLOAT")], RUN
    )
    lookup = store.read(RELATED).where(f"run_id = '{RUN}' AND item_id = 'i012345'")  # as a view has it
    read_files, read_bytes, rows = read_by(spark, lookup, "related")
    total_files, total_bytes = size_of(store, RELATED)
    assert len(rows) == K
    assert total_files == PARTS
    assert read_files == 1
    assert read_bytes <= 0.1 * total_bytes


def test_one_bucket(spark: SparkSession, tmp_path: Path) -> None:
    code = np.random.default_rng(0).integers(-(2**63), 2**63, (20_000, 1))
    table = pa.table(
        {
            "code_bits": np.full(len(code), 64, np.int32), "node_type": ["item"] * len(code),
            "node_id": np.arange(len(code)), "external_id": [f"i{one:06d}" for one in range(len(code))],
            "code": code.tolist(),
        }
    )  # fmt: skip
    index = Index(code_bits=(64,), lsh_bits=64, lsh=Lsh(band_bits=8))
    store = Store(spark, str(tmp_path))
    buckets = buckets_from_codes(spark.createDataFrame(table).repartition(4), index)
    store.write(LSH_BUCKETS, clustered(buckets), RUN)
    lookup = store.read(LSH_BUCKETS).where(f"run_id = '{RUN}' AND band = 5 AND bucket = 77")
    read_files, read_bytes, rows = read_by(spark, lookup, "bucket")
    total_files, total_bytes = size_of(store, LSH_BUCKETS)
    expected = np.flatnonzero(code[:, 0] >> 40 & 0xFF == 77)
    assert sorted(row["node_id"] for row in rows) == expected.tolist()  # type: ignore[index]
    assert total_files >= 3
    assert read_files <= 2  # a band may begin in one file and end in the next
    assert read_bytes <= 0.3 * total_bytes

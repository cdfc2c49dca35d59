"""For every item its nearest items: an exact block scan inside the workers.

One fp32 matrix of all items is mapped once per host; a task takes blocks of query rows and
scans the matrix by `exact.top_k`. Nothing is joined pair by pair, and nothing that grows with
the catalogue passes through the driver.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from walkbits.arrays.mapped import ArrayWriter, create_matrix, open_matrix
from walkbits.arrays.places import Place
from walkbits.errors import EmptyInputError, InputError
from walkbits.index.codes import vectors
from walkbits.index.exact import QUERY_BLOCK, top_k
from walkbits.tables.rows import Batches, Step

MATRIX: Final = "items.npy"


def related_items(spark: SparkSession, embeddings: DataFrame, num_related: int, folder: Place) -> DataFrame:
    """The `num_related` items of largest inner product with each item, itself excluded.

    Scores and their order are those of `exact.top_k`, ties by node_id; they do not depend on
    partitioning. A catalogue of n <= num_related items gives n - 1 rows each.

    Args:
        spark: the session.
        embeddings: node_id (0 to n - 1), external_id, embedding ARRAY<FLOAT> of all items.
        num_related: length of each list.
        folder: scratch folder on storage that the driver and all executors reach; it must live
            until the result has been written. Holds n * embedding_size * 4 bytes.

    Returns:
        item_id, rank (from 1), related_id, score.

    Raises:
        EmptyInputError: no embeddings.
        InputError: node_ids are not 0 to n - 1, or sizes differ.
    """
    num_items, size = _shape(embeddings)
    matrix = _write_matrix(embeddings, num_items, size, folder / MATRIX)
    blocks = -(-num_items // QUERY_BLOCK)
    # Several tasks per core even out their lengths; a task costs little beside a block.
    tasks = min(blocks, 4 * spark.sparkContext.defaultParallelism)
    pairs = spark.range(0, blocks, numPartitions=tasks).mapInArrow(
        _scanner(matrix, num_related), "item BIGINT, rank INT, related BIGINT, score FLOAT"
    )
    # Spark cannot know how many rows the scan returns and would broadcast them.
    ids = embeddings.select("node_id", "external_id").hint("shuffle_hash")
    item_ids = ids.select(F.col("node_id").alias("item"), F.col("external_id").alias("item_id"))
    related_ids = ids.select(F.col("node_id").alias("related"), F.col("external_id").alias("related_id"))
    return (
        pairs.join(related_ids, "related", "inner")
        .join(item_ids, "item", "inner")
        .select("item_id", "rank", "related_id", "score")
    )


def _shape(embeddings: DataFrame) -> tuple[int, int]:
    """Number of items and embedding size, after checking that the ids number the rows."""
    size = F.size("embedding")
    seen = embeddings.agg(
        F.count("*").alias("rows"), F.count_distinct("node_id").alias("ids"),
        F.min("node_id").alias("first"), F.max("node_id").alias("last"),
        F.min(size).alias("least"), F.max(size).alias("most"),
    ).first()  # fmt: skip
    if seen is None or not seen["rows"]:
        raise EmptyInputError("embeddings must hold items, got none; run the layers first")
    rows = int(seen["rows"])
    if (seen["ids"], seen["first"], seen["last"]) != (rows, 0, rows - 1):
        raise InputError(
            f"node_id of {rows} items must be 0 to {rows - 1}, each once, got {seen['ids']} different ones "
            f"from {seen['first']} to {seen['last']}; rebuild the embeddings"
        )
    if seen["least"] != seen["most"]:
        raise InputError(
            f"embeddings must have one size, got {seen['least']} to {seen['most']}; rebuild the embeddings"
        )
    return rows, int(seen["most"])


def _write_matrix(embeddings: DataFrame, num_items: int, size: int, matrix: Place) -> Place:
    """Write the rows into one matrix, each task the rows it reads."""
    create_matrix(matrix, num_items, size)

    def write_rows(batches: Batches) -> Batches:
        with ArrayWriter(matrix) as file:
            for batch in batches:
                if batch.num_rows:
                    rows = vectors(batch.column("embedding"))
                    if not np.isfinite(rows).all():
                        raise InputError("embeddings must be finite, got NaN or infinity; audit the run")
                    file.write(batch.column("node_id").to_numpy(), rows)
        yield pa.RecordBatch.from_pydict({"done": [True]})

    embeddings.select("node_id", "embedding").mapInArrow(write_rows, "done BOOLEAN").count()
    return matrix


def _scanner(items_matrix: Place, num_related: int) -> Step:
    def scan(batches: Batches) -> Batches:
        matrix = open_matrix(items_matrix)
        length = min(num_related, len(matrix) - 1)
        for batch in batches:
            for block in batch.column("id").to_pylist():
                start = block * QUERY_BLOCK
                queries = np.ascontiguousarray(matrix[start : start + QUERY_BLOCK])  # [<= QUERY_BLOCK, d]
                items = np.arange(start, start + len(queries))
                itself = (np.arange(len(queries) + 1), items)
                related, scores = top_k(queries, matrix, length, itself)  # [queries, length]
                yield pa.RecordBatch.from_pydict(
                    {
                        "item": np.repeat(items, length),
                        "rank": np.tile(np.arange(1, length + 1, dtype=np.int32), len(items)),
                        "related": related.ravel(),
                        "score": scores.ravel(),
                    }
                )

    return scan

"""Whether published lists still hold what an exact scan finds, on a keyed sample of their queries.

The scan reads the committed embeddings once more; each task keeps the best of what it reads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pyspark.sql import Window
from pyspark.sql import functions as F

from walkbits import settings
from walkbits.arrays.places import Place
from walkbits.index.cells import sampled
from walkbits.index.codes import vectors
from walkbits.index.exact import top_k
from walkbits.index.matrices import Form, with_one, with_prior
from walkbits.index.nearest import Excluded, Itself
from walkbits.index.related import recommends, related_forms, seen_in
from walkbits.network.declaration import Network
from walkbits.schemas import EMBEDDINGS, ITEM, NODES, RECOMMENDATIONS, RELATED, Table
from walkbits.tables.rows import Batches
from walkbits.tables.store import Store
from walkbits.types import F32, I64, NodeType

SAMPLE = 200
"""Queries of each product."""
_TAG = int.from_bytes(b"audit", "big")
"""Another sample than the one that the search was chosen on."""
_ERRORS = 3
"""Standard errors by which a sample may miss the target by chance."""


@dataclass(frozen=True)
class Product:
    """Lists to be looked into.

    Attributes:
        table: of the lists.
        columns: query and item in it.
        asks: node type of the queries.
        first: node_id of the first query.
        count: number of queries.
        k: length of a list.
        queried, scored: forms of the query's and the items' embeddings.
        excluded: by position of the query.
    """

    table: Table
    columns: tuple[str, str]
    asks: NodeType
    first: int
    count: int
    k: int
    queried: Form
    scored: Form
    excluded: Excluded


def products_of(
    network: Network, num_items: int, num_contexts: int, index: settings.Index, graph: Place
) -> Iterator[Product]:
    """The products of a run; none of a catalogue that has no lists.

    Args:
        graph: folder of the run's graph.
    """
    if num_items > 1:
        queried, scored = related_forms(network, graph)
        yield Product(
            RELATED, ("item_id", "related_id"), "item", 0, num_items, min(index.num_related, num_items - 1),
            queried, scored or queried, Itself(),
        )  # fmt: skip
    if recommends(network, num_contexts, index):
        yield Product(
            RECOMMENDATIONS, ("context_id", "item_id"), "context", num_items, num_contexts,
            min(index.num_recommended, num_items), with_one, with_prior, seen_in(graph),
        )  # fmt: skip


def list_recall(store: Store, run_id: str, product: Product, seed: int) -> tuple[float, float, int]:
    """Share of the exact lists that the published ones hold, its standard error, and the lists compared."""
    positions = sampled(product.count, SAMPLE, seed ^ _TAG)
    where: dict[str, Any] = {"run_id": run_id, "node_type": product.asks}
    asked = store.read(EMBEDDINGS, **where).where(F.col("node_id").isin((positions + product.first).tolist()))
    table = asked.orderBy("node_id").select("external_id", "embedding", "prior").toArrow()
    own: pa.RecordBatch = table.combine_chunks().to_batches()[0]
    queries = product.queried(own, vectors(own.column("embedding")))
    items = store.scan(EMBEDDINGS, ("node_id", "embedding", "prior"), run_id=run_id, node_type=ITEM)
    scan = _Scan(queries, product.scored, product.k, product.excluded.of(positions))
    best_first = Window.partitionBy("query").orderBy(F.desc("score"), "item")
    exact = (
        items.then(scan.run, scan.schema).to_frame()
        .withColumn("rank", F.row_number().over(best_first)).where(F.col("rank") <= product.k)
    )  # fmt: skip
    spark, names = store.spark, own.column("external_id").to_pylist()
    asking = spark.createDataFrame(list(enumerate(names)), "query bigint, asking string")
    named = store.read(NODES, run_id=run_id, node_type=ITEM).select(
        F.col("node_id").alias("item"), F.col("external_id").alias("found")
    )
    query, item = product.columns
    published = store.read(product.table, run_id=run_id).where(F.col(query).isin(names))
    published = published.select(
        F.col(query).alias("asking"), F.col(item).alias("found"), F.lit(1).alias("listed")
    )
    compared = (
        named.join(F.broadcast(exact), "item", "inner").join(F.broadcast(asking), "query", "inner")
        .join(F.broadcast(published), ["asking", "found"], "left")
        .groupBy("query").agg(F.count(F.lit(1)).alias("exact"), F.count("listed").alias("both"))
    )  # fmt: skip
    shares = np.array([row["both"] / row["exact"] for row in compared.orderBy("query").collect()])
    if not len(shares):
        return 1.0, 0.0, 0
    error = 0.0 if len(positions) == product.count else float(shares.std()) / math.sqrt(len(shares))
    return float(shares.mean()), error, len(shares)


def below_target(name: str, found: tuple[float, float, int], target: float) -> Iterator[str]:
    """A sentence where the recall misses the target by more than chance; NaN does."""
    recall, error, queries = found
    if not recall + _ERRORS * error >= target:
        yield (
            f"index.target_recall: {name} must hold at least {target:g} of the exact lists, got {recall:.4f} "
            f"of {queries} lists"
        )


@dataclass(frozen=True)
class _Scan:
    queries: F32
    form: Form
    k: int
    excluded: tuple[I64, I64]

    schema: ClassVar[str] = "query BIGINT, item BIGINT, score FLOAT"

    def run(self, batches: Batches) -> Batches:
        """(node_id, embedding, prior) of items -> the best of them for each query."""
        query = np.repeat(np.arange(len(self.queries)), self.k)
        for batch in batches:
            if batch.num_rows:
                items = np.ascontiguousarray(self.form(batch, vectors(batch.column("embedding"))))
                ids = batch.column("node_id").to_numpy()
                found, scores = top_k(self.queries, items, self.k, self.excluded, ids=ids)
                filled = found.ravel() >= 0
                columns = (query, found.ravel(), scores.ravel())
                arrays = [pa.array(one[filled]) for one in columns]
                yield pa.RecordBatch.from_arrays(arrays, names=["query", "item", "score"])

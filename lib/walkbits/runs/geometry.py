"""Figures that detect a collapsed, constant or empty space of embeddings and codes.

They need no earlier run, so that the first day, and every day that trains, is judged too.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from pyspark.sql import functions as F

from walkbits.evaluation.metrics import bit_balance, bit_correlation, bit_entropy, gini
from walkbits.index.codes import unpack_bits
from walkbits.rng import draw
from walkbits.runs.cost import Figures
from walkbits.schemas import CODES, EMBEDDINGS, ITEM, LSH_BUCKETS, NEIGHBORHOODS
from walkbits.tables.store import Store
from walkbits.types import F32, I64

_SAMPLE: Final = 512
"""Items, about, whose pairs are compared."""
_CODES: Final = 4096
"""Items, about, whose codes are looked at."""
_NEAREST: Final = 3
"""Walk neighbors of each."""
_JUDGED_FROM: Final = 100
"""Items below which pairs prove nothing: those of one community may be all there is."""


def geometry(store: Store, run_id: str, seed: int, num_items: int) -> Figures:
    """Shares of zero and of distinct item vectors, and mean cosines of random pairs and of walk neighbors.

    Zero vectors have no direction and no part in the cosines. The pairs are drawn by `seed`; models that
    read no walks between items have no neighbors here.
    """
    embeddings = store.read(EMBEDDINGS, run_id=run_id).where(F.col("node_type") == ITEM)
    row = embeddings.agg(
        F.count(F.lit(1)).alias("rows"),
        F.count_if(F.expr("forall(embedding, x -> x = 0)")).alias("zero"),
        F.count_distinct(F.xxhash64("embedding")).alias("distinct"),
    ).collect()[0]
    if not row["rows"]:
        return {}
    figures: Figures = {"zero_vectors[item]": (row["zero"] / row["rows"], "ratio")}
    if num_items < _JUDGED_FROM:
        return figures
    figures["distinct_vectors[item]"] = (row["distinct"] / row["rows"], "ratio")
    # By position: the sample is known without asking, and equal for equal runs.
    nodes = np.unique(draw(seed, np.arange(_SAMPLE, dtype=np.int64), 0) % np.uint64(num_items)).astype(
        np.int64
    )
    near = _neighbors(store, run_id, nodes)
    wanted = np.unique(np.concatenate([nodes, near.reshape(-1)]))
    rows = embeddings.join(
        F.broadcast(store.spark.createDataFrame([(int(node),) for node in wanted], "node_id bigint")),
        "node_id", "left_semi",
    ).select("node_id", "embedding").collect()  # fmt: skip
    ids = np.array([one["node_id"] for one in rows], np.int64)
    vectors = np.array([one["embedding"] for one in rows], np.float32)
    turned = nodes[np.argsort(draw(seed, nodes, 1))]
    for name, pairs in (
        ("random_cosine[item]", np.stack([turned, np.roll(turned, 1)], axis=1)),
        ("neighbor_cosine[item]", near),
    ):
        cosines = _cosines(ids, vectors, pairs)
        if len(cosines):
            figures[name] = (float(cosines.mean()), "ratio")
    return figures


def _neighbors(store: Store, run_id: str, nodes: I64) -> I64:
    """(node, neighbor) of the nodes' nearest by walks: [pairs, 2]."""
    where = {"run_id": run_id, "relation": "item_from_item"}
    lists = store.read(NEIGHBORHOODS, **where).where(F.col("node").isin(nodes.tolist()))
    pairs = [
        (row["node"], int(neighbor))
        for row in lists.select("node", "neighbors").collect()
        for neighbor in np.frombuffer(row["neighbors"], "<i4")[:_NEAREST]
        if neighbor != row["node"]
    ]
    return np.array(sorted(pairs), np.int64).reshape(-1, 2)


def _cosines(ids: I64, vectors: F32, pairs: I64) -> F32:
    """Of the pairs whose vectors are both there and not zero: [<= pairs]."""
    order = np.argsort(ids)
    known = np.isin(pairs, ids).all(axis=1)
    left, right = (
        vectors[order[np.searchsorted(ids, pairs[known, side], sorter=order)]] for side in (0, 1)
    )  # [known, width]
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    whole = lengths > 0
    return np.asarray((left * right).sum(axis=1)[whole] / lengths[whole], np.float32)


def code_health(store: Store, run_id: str, code_bits: int, seed: int, num_items: int) -> Figures:
    """What the bits of the items' codes and the buckets cut from them are worth.

    constant_bits: share of bits that are equal in all of a sample's codes.
    bit_balance: mean over bits of 1 - |2 share of ones - 1|; 1 is best.
    bit_entropy: mean over bits of the entropy of that share, in bits; 1 is best.
    bit_correlation: mean |correlation| of pairs of bits; 0 is best.
    bucket_gini: of the buckets' populations; 0 when all are equal.

    The sample is drawn by `seed`: about 4,096 items, all of a small catalogue.
    """
    if num_items < _JUDGED_FROM:
        return {}
    codes = store.read(CODES, run_id=run_id, code_bits=code_bits).where(F.col("node_type") == ITEM)
    step = max(1, num_items // _CODES)
    rows = codes.where(F.pmod(F.xxhash64(F.lit(seed), "node_id"), F.lit(step)) == 0).select("code").toArrow()
    if not rows.num_rows:
        return {}
    words = rows["code"].combine_chunks().flatten().to_numpy().reshape(rows.num_rows, -1)
    bits = unpack_bits(words)
    share = bit_balance(bits)
    sizes = (
        store.read(LSH_BUCKETS, run_id=run_id).groupBy("band", "bucket").count()
        .groupBy("count").agg(F.count(F.lit(1)).alias("times")).toArrow()
    )  # fmt: skip
    return {
        "constant_bits[item]": (float(np.mean((share == 0) | (share == 1))), "ratio"),
        "bit_balance[item]": (float(np.mean(1 - np.abs(2 * share - 1))), "ratio"),
        "bit_entropy[item]": (bit_entropy(share), "ratio"),
        "bit_correlation[item]": (bit_correlation(bits), "ratio"),
        "bucket_gini": (gini(sizes["count"].to_numpy(), sizes["times"].to_numpy()), "ratio"),
    }

"""Features of nodes: groups of columns side by side, each normalised on its own.

`text` and `categorical`: words or labels hashed to `features.text_buckets` buckets, weighted by tf x idf,
projected to `features.width` columns by keyed random signs (Achlioptas 2003), scaled to unit length:
x_j = sum_w tfidf_w sign(w, j) / norm. The signs are a hash of (seed, bucket, column), so no matrix is stored
and a new node's vector needs no other node's. `numeric` and `degree`: standardised. A vector column: scaled
to unit length. `ingest.space` says which columns of the vector a group has, and keeps what is learned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark import Broadcast
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from scipy import sparse

from walkbits.arrays.vectors import binary_array
from walkbits.ingest.space import FeatureSpace, Layout, width_of
from walkbits.rng import draw
from walkbits.settings import Features
from walkbits.tables.rows import Batches
from walkbits.types import F32, F64, I32, I64, NodeType

_SIGN_STREAM = 0x5349474E
_FIXED_BITS = 40
"""Of a number beside the largest of its column: what is smaller than 2^-40 of it counts as nothing."""
_TOKENS = ("text", "categorical")


def hashed(nodes: DataFrame, features: Features) -> DataFrame:
    """Replace words and labels by their buckets: ARRAY<INT>, ascending, repeats kept."""

    def buckets(column: str) -> Column:
        count = F.lit(features.text_buckets)
        hashes = F.transform(column, lambda token: F.pmod(F.xxhash64(token), count).cast("int"))
        return F.array_sort(hashes)

    return nodes.withColumns({column: buckets(column) for column in _TOKENS})


def learn(nodes: DataFrame, degrees: DataFrame, layout: Layout, features: Features) -> dict[str, F64]:
    """What the groups of a node type need to know, by `<group>.<name>`.

    All sums are of integers, so they do not depend on row order. What the driver holds is as long as the hash
    space, not as the catalogue.

    Args:
        nodes: Rows of `hashed`.
        degrees: (degree) of all nodes of the type.

    Returns:
        `idf` fp64 [text_buckets], smoothed inverse document frequencies of words or labels; `means` and
        `scales` fp64 [width of the group] of numbers.
    """
    learned: dict[str, F64] = {}
    for group in layout:
        if group.name in _TOKENS:
            learned[f"{group.name}.idf"] = _idf(nodes, group.name, features.text_buckets)
        elif group.name == "numeric":
            columns = [F.col("numbers")[i] for i in range(group.width)]
            learned["numeric.means"], learned["numeric.scales"] = moments(nodes, columns)
        elif group.name == "degree":
            learned["degree.means"], learned["degree.scales"] = moments(degrees, [_log_degree()])
    return learned


def _idf(nodes: DataFrame, column: str, num_buckets: int) -> F64:
    total = nodes.count()
    buckets = nodes.select(F.explode(F.array_distinct(column)).alias("bucket"))
    found = buckets.groupBy("bucket").count().toArrow()
    frequency = np.zeros(num_buckets)
    frequency[found["bucket"].to_numpy()] = found["count"].to_numpy()
    return np.asarray(np.log((1.0 + total) / (1.0 + frequency)) + 1.0)


def _log_degree() -> Column:
    return F.log1p(F.col("degree").cast("double"))


def moments(frame: DataFrame, columns: Sequence[Column]) -> tuple[F64, F64]:
    """Mean and deviation of columns of finite doubles and nulls, whatever the order of rows.

    Numbers are summed as integers in units of 2^-40 of the column's largest; a column without spread has
    deviation 1.

    Returns:
        fp64 [columns], fp64 [columns].
    """
    largest = frame.agg(*[F.max(F.abs(column)) for column in columns]).collect()[0]
    # no unit below the smallest double
    units = [math.ldexp(1.0, max(math.frexp(top or 0.0)[1] - _FIXED_BITS, -1074)) for top in largest]
    sums = []
    for column, unit in zip(columns, units, strict=True):
        whole = F.round(column / F.lit(unit)).cast("bigint").cast("decimal(13,0)")
        sums += [F.count(column), F.sum(whole), F.sum(whole * whole)]
    found = iter(frame.agg(*sums).collect()[0])
    means, scales = [], []
    for unit in units:
        count, total, squares = (int(next(found) or 0) for _ in range(3))
        means.append(total / count * unit if count else 0.0)
        # exact integers: no digits cancel however far the numbers are from zero
        deviation = math.sqrt(count * squares - total * total) / count * unit if count else 0.0
        scales.append(deviation or 1.0)
    return np.array(means), np.array(scales)


def vectors(nodes: DataFrame, keys: DataFrame, space: FeatureSpace, node_type: NodeType) -> DataFrame:
    """(node_id BIGINT, features BINARY): one fp32 little-endian vector per node.

    Args:
        nodes: Rows of `hashed`, by `id`.
        keys: (id, node_id, degree).
    """
    rows = nodes.join(keys, "id").select(
        "node_id", *_TOKENS, "numbers", "vectors", F.array(_log_degree()).alias("degree")
    )
    prefix = f"{node_type}."
    learned = {
        name.removeprefix(prefix): one for name, one in space.learned.items() if name.startswith(prefix)
    }
    shared = nodes.sparkSession.sparkContext.broadcast(learned)
    embed = _Embed(space.layouts[node_type], space.seed, shared)
    return rows.mapInArrow(embed.run, "node_id bigint, features binary")


@dataclass(frozen=True)
class _Embed:
    """Rows of one node type to vectors."""

    layout: Layout
    seed: int
    learned: Broadcast[dict[str, F64]]

    def run(self, batches: Batches) -> Batches:
        """(node_id, text, categorical, numbers, vectors, degree) -> (node_id, features)."""
        for batch in batches:
            columns = {name: batch.column(name) for name in batch.schema.names}
            whole = vectors_of(columns, self.layout, self.learned.value, self.seed)
            yield pa.RecordBatch.from_arrays(
                [batch.column("node_id"), binary_array(whole)], names=["node_id", "features"]
            )


def vectors_of(
    columns: Mapping[str, pa.ListArray], layout: Layout, learned: Mapping[str, F64], seed: int
) -> F32:
    """Feature vectors of a batch of nodes, group by group.

    Args:
        columns: `text`, `categorical` list<int32>; `numbers`, `vectors`, `degree` list<double>.

    Returns:
        fp32 [rows, feature_width].
    """
    rows = len(columns["text"])
    whole = np.empty((rows, width_of(layout)), "<f4")
    taken = 0  # columns of `vectors` that earlier groups hold
    for group in layout:
        if group.name in _TOKENS:
            tokens = columns[group.name]
            lengths = np.diff(np.asarray(tokens.offsets)).astype(np.int64)
            idf = learned[f"{group.name}.idf"]
            values: F64 = project(tokens.flatten().to_numpy(), lengths, idf, group.width, seed)
        elif group.name in ("numeric", "degree"):
            numbers = _matrix(columns["numbers" if group.name == "numeric" else "degree"], rows)
            values = standardise(numbers, learned[f"{group.name}.means"], learned[f"{group.name}.scales"])
        else:
            values = unit_length(_matrix(columns["vectors"], rows)[:, taken : taken + group.width])
            taken += group.width
        whole[:, group.start : group.stop] = values
    return whole


def _matrix(lists: Any, rows: int) -> F64:
    """Lists of one length as fp64 [rows, length]; a null becomes NaN."""
    flat = np.array(lists.flatten().to_numpy(zero_copy_only=False), dtype=np.float64)
    return flat.reshape(rows, -1)


def project(buckets: I32, lengths: I64, idf: F64, width: int, seed: int) -> F64:
    """TF-IDF rows projected by keyed signs and scaled to unit length.

    Args:
        buckets: int32 [tokens], each row's buckets ascending, rows one after another.
        lengths: int64 [rows], tokens per row.

    Returns:
        fp64 [rows, width]; a row without tokens is zero.
    """
    rows = np.repeat(np.arange(len(lengths)), lengths)  # [tokens]
    unique, column = np.unique(buckets, return_inverse=True)  # [u], [tokens]
    # Repeated words add up: tf x idf. Row order inside the sums is by bucket, always.
    counts = sparse.csr_matrix((idf[buckets], (rows, column)), shape=(len(lengths), len(unique)))
    return unit_length(np.asarray(counts @ signs(unique, width, seed)))


def signs(buckets: I32, width: int, seed: int) -> F64:
    """Keyed random signs, fp64 [buckets, width]: bit j % 64 of draw(seed, bucket, j // 64)."""
    num_words = -(-width // 64)
    words = draw(seed, buckets.astype(np.int64)[:, None], _SIGN_STREAM, np.arange(num_words)[None, :])
    bits = (words[:, :, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)  # [buckets, words, 64]
    return bits.reshape(len(buckets), 64 * num_words)[:, :width].astype(np.float64) * 2.0 - 1.0


def standardise(numbers: F64, means: F64, scales: F64) -> F64:
    """(x - mean) / deviation, a null (NaN here) taken as the mean. [rows, columns]"""
    return np.where(np.isnan(numbers), 0.0, (numbers - means) / scales)


def unit_length(rows: F64) -> F64:
    """Rows divided by their length; a zero row stays zero. [rows, width]"""
    # by the largest coordinate first: squares of doubles may overflow or vanish
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)
    scaled = rows / np.where(largest > 0, largest, 1.0)
    norm = np.sqrt((scaled * scaled).sum(axis=1, keepdims=True))
    return np.asarray(scaled / np.where(norm > 0, norm, 1.0))

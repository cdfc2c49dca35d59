"""Item features from an item table's columns: hashed TF-IDF, projected; numbers, standardised.

Layout of a vector: `features.width` projected columns of unit length, then the numeric
columns in config order, then log degree. Words are hashed to `features.text_buckets`
buckets, weighted by tf x idf, and projected by keyed random signs (Achlioptas 2003):
x_j = sum_w tfidf_w sign(w, j) / norm. The signs are a hash of (seed, bucket, column), so
no matrix is stored and a new item's vector needs no other item's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from scipy import sparse

from walkbits.errors import InputError
from walkbits.ingest.sources import as_id, as_number, quoted, require_columns, require_id
from walkbits.ingest.space import FeatureSpace
from walkbits.input_settings import Items
from walkbits.rng import draw
from walkbits.settings import Features, config_hash
from walkbits.tables.rows import Batches
from walkbits.tables.vectors import binary_array
from walkbits.types import F64

_TOKEN_PATTERN = "[^\\p{L}\\p{N}]+"
_SIGN_STREAM = 0x5349474E
_LOG_DEGREE = "log_degree"


def feature_width(features: Features, items: Items) -> int:
    """Length of a feature vector."""
    return features.width + len(items.numeric) + 1


def feature_schema_hash(features: Features, items: Items) -> str:
    """Identifies the layout; a model only accepts vectors of the layout it was trained on."""
    columns = items.model_dump(include={"text", "categorical", "numeric"}, mode="json")
    return config_hash(features, str(sorted(columns.items())))


def select_items(frame: DataFrame, spec: Items) -> DataFrame:
    """Item rows as (item_id, name, tokens ARRAY<STRING>, numbers ARRAY<DOUBLE>, row STRING).

    A null label or text gives no token; a null number is null in `numbers`. An item table
    without text and labels is described by its ids alone: each item's own token.

    Raises:
        InputError: a mapped column is missing or has an unusable type.
    """
    mapped = [spec.item, *filter(None, [spec.name]), *spec.text, *spec.categorical, *spec.numeric]
    require_columns(frame, mapped, "items")
    require_id(frame, spec.item, "items")
    numbers = [as_number(frame, column, "items") for column in spec.numeric]
    return frame.select(
        as_id(spec.item).alias("item_id"),
        (F.col(quoted(spec.name)).cast("string") if spec.name else F.lit(None).cast("string")).alias("name"),
        _tokens(frame, spec).alias("tokens"),
        (F.array(*numbers) if numbers else F.array().cast("array<double>")).alias("numbers"),
        F.to_json(F.struct(*map(quoted, dict.fromkeys(mapped)))).alias("row"),
    )


def _tokens(frame: DataFrame, spec: Items) -> Column:
    if not (spec.text or spec.categorical):
        return F.array(F.concat(F.lit("id="), as_id(spec.item)))
    words = [_words(frame, column) for column in spec.text]
    labels = [
        F.when(F.col(quoted(c)).isNotNull(), F.concat(F.lit(f"{c}="), F.col(quoted(c)).cast("string")))
        for c in spec.categorical
    ]
    return F.concat(*words, F.array_compact(F.array(*labels)) if labels else F.array().cast("array<string>"))


def _words(frame: DataFrame, column: str) -> Column:
    """Lower-case words of a text column; a list column is joined first."""
    text = F.col(quoted(column))
    if frame.schema[column].dataType.typeName() == "array":
        text = F.array_join(text, " ")
    split = F.split(F.lower(F.coalesce(text.cast("string"), F.lit(""))), _TOKEN_PATTERN)
    return F.filter(split, lambda word: word != "")


def check_items(items: DataFrame, numeric: Sequence[str]) -> None:
    """Refuse null and repeated ids, and NaN or infinite numbers, which would poison neighborhoods.

    Raises:
        InputError: with a count and an example.
    """
    bad = [
        F.isnan(F.col("numbers")[i]) | (F.abs(F.col("numbers")[i]) == float("inf"))
        for i in range(len(numeric))
    ]
    row = items.agg(
        F.count_if(F.col("item_id").isNull()).alias("nulls"),
        *[F.count_if(one).alias(f"bad_{i}") for i, one in enumerate(bad)],
        *[F.min(F.when(one, F.col("row"))).alias(f"example_{i}") for i, one in enumerate(bad)],
    ).collect()[0]
    if row["nulls"]:
        raise InputError(
            f"items: ids must not be null, got {row['nulls']} null ids; filter them at their source"
        )
    for i, column in enumerate(numeric):
        if row[f"bad_{i}"]:
            raise InputError(
                f"items.{column} must be finite or null, got {row[f'bad_{i}']} other rows, "
                f"e.g. {row[f'example_{i}']}; mend them at their source"
            )
    repeated = items.groupBy("item_id").count().where(F.col("count") > 1)
    twice = repeated.agg(F.count(F.lit(1)).alias("ids"), F.min("item_id").alias("example")).collect()[0]
    if twice["ids"]:
        raise InputError(
            f"items: ids must be unique, got {twice['ids']} repeated ids, e.g. {twice['example']!r}; "
            "keep one row per item at its source"
        )


def hashed(items: DataFrame, features: Features) -> DataFrame:
    """Replace tokens by their buckets: `buckets ARRAY<INT>`, ascending, repeats kept."""
    bucket = F.transform(
        "tokens", lambda token: F.pmod(F.xxhash64(token), F.lit(features.text_buckets)).cast("int")
    )
    return items.withColumn("buckets", F.array_sort(bucket)).drop("tokens")


def learn(
    items: DataFrame, degrees: DataFrame, features: Features, num_numbers: int, seed: int
) -> FeatureSpace:
    """Document frequencies as `idf` fp64 [text_buckets]; `means`, `scales` fp64 [numeric columns + 1].

    Sums are decimal, so they do not depend on row order. What comes to the driver is as
    long as the hash space, not as the catalogue.

    Args:
        items: (item_id, buckets, numbers); degrees: (item_id, degree).
    """
    total = items.count()
    frequency = (
        items.select(F.explode(F.array_distinct("buckets")).alias("bucket"))
        .groupBy("bucket")
        .count()
        .toArrow()
    )
    document_frequency = np.zeros(features.text_buckets)
    document_frequency[frequency["bucket"].to_numpy()] = frequency["count"].to_numpy()
    idf = np.log((1.0 + total) / (1.0 + document_frequency)) + 1.0

    numbers = items.join(degrees, "item_id", "left").select(_numbers(num_numbers))
    exact = "decimal(38,9)"
    columns = [F.col("numbers")[i] for i in range(num_numbers + 1)]
    means_row = numbers.agg(*[(F.sum(c.cast(exact)) / F.count(c)).cast("double") for c in columns]).first()
    means = np.array([value or 0.0 for value in means_row or []])
    squares = [(c - F.lit(float(m))) * (c - F.lit(float(m))) for c, m in zip(columns, means, strict=True)]
    var_row = numbers.agg(*[(F.sum(s.cast(exact)) / F.count(s)).cast("double") for s in squares]).first()
    deviation = np.sqrt(np.array([value or 0.0 for value in var_row or []]))
    return FeatureSpace(seed, {"idf": idf, "means": means, "scales": np.where(deviation > 0, deviation, 1.0)})


def _numbers(num_numbers: int) -> Column:
    """The numeric columns followed by log(1 + degree)."""
    log_degree = F.log1p(F.coalesce(F.col("degree"), F.lit(0)).cast("double"))
    own = [F.col("numbers")[i] for i in range(num_numbers)]
    return F.array(*own, log_degree).alias("numbers")


def vectors(
    items: DataFrame, degrees: DataFrame, space: FeatureSpace, features: Features, num_numbers: int
) -> DataFrame:
    """(item_id STRING, features BINARY): one fp32 little-endian vector per item."""
    numeric = items.join(degrees, "item_id", "left").select("item_id", "buckets", _numbers(num_numbers))
    shared = items.sparkSession.sparkContext.broadcast(space)
    width = features.width

    def embed(batches: Batches) -> Batches:
        learned = shared.value.learned
        for batch in batches:
            tokens = batch.column("buckets")
            table = np.array(
                batch.column("numbers").flatten().to_numpy(zero_copy_only=False), dtype=np.float64
            )
            projected = project(
                tokens.flatten().to_numpy(), _lengths(tokens), learned["idf"], width, shared.value.seed
            )  # [rows, width]
            numbers = table.reshape(len(batch), -1)  # [rows, numbers + 1]
            standard = standardise(numbers, learned["means"], learned["scales"])
            whole = np.hstack([projected, standard]).astype("<f4")  # [rows, feature_width]
            yield pa.RecordBatch.from_arrays(
                [batch.column("item_id"), binary_array(whole)], names=["item_id", "features"]
            )

    return numeric.mapInArrow(embed, "item_id string, features binary")


def project(
    buckets: NDArray[np.int32], lengths: NDArray[np.int64], idf: NDArray[np.float64], width: int, seed: int
) -> NDArray[np.float64]:
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
    dense = np.asarray(counts @ signs(unique, width, seed))  # [rows, width]
    norm = np.sqrt((dense * dense).sum(axis=1, keepdims=True))
    return dense / np.where(norm > 0, norm, 1.0)


def signs(buckets: NDArray[np.int32], width: int, seed: int) -> NDArray[np.float64]:
    """Keyed random signs, fp64 [buckets, width]: bit j % 64 of draw(seed, bucket, j // 64)."""
    num_words = -(-width // 64)
    words = draw(seed, buckets.astype(np.int64)[:, None], _SIGN_STREAM, np.arange(num_words)[None, :])
    bits = (words[:, :, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)  # [buckets, words, 64]
    return bits.reshape(len(buckets), 64 * num_words)[:, :width].astype(np.float64) * 2.0 - 1.0


def standardise(numbers: F64, means: F64, scales: F64) -> F64:
    """(x - mean) / deviation, a null (NaN here) taken as the mean. [rows, columns]"""
    return np.where(np.isnan(numbers), 0.0, (numbers - means) / scales)


def _lengths(lists: pa.ListArray) -> NDArray[np.int64]:
    return np.diff(np.asarray(lists.offsets)).astype(np.int64)

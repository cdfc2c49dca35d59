"""Sign codes: which bit an embedding's coordinate becomes, and how codes are compared.

    y = R x                      R: [code_bits, embedding_size], seeded random rotation
    bit_b = (y_b > 0)            packed in 64-bit words, least significant bit first
    scale = mean_b |y_b|

Symmetric distance of two codes: the number of bits in which they differ (Hamming).
Asymmetric score of a float query q and a coded item:

    score(q, item) = sum_b (R q)_b * (2 bit_b - 1) * scale

which estimates (code_bits / embedding_size) * <q, x>, up to a shrinkage common to all
items, and therefore ranks as the inner product does. R is a stack of orthonormal blocks,
so narrow codes are prefixes of wide ones.

The projection is computed in integers that fp64 holds exactly: no bit depends on a block
shape, a batch boundary, a thread count or a BLAS.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from walkbits import rng, settings
from walkbits.errors import ConfigError, EmptyInputError, InputError
from walkbits.tables.rows import Batches, Step
from walkbits.types import F32, F64, I64

WORD_BITS: Final = 64

_ROTATION_TAG: Final = int.from_bytes(b"rotation", "big")
_ROTATION_GRID: Final = 2.0**-23
_COORDINATE_BITS: Final = 24
_MAX_SIZE: Final = 4096
"""24 + 23 bits a product, and at most sqrt(4096) = 2^6 of them at full length: 2^53."""

_BLOCK: Final = 8192
"""Rows of one GEMM: 8,192 x 256 fp64 projections are 16 MB."""


def rotation(seed: int, embedding_size: int, code_bits: int) -> F32:
    """Seeded random rotation for codes that no model has learned.

    Rows are orthonormal within each block of `embedding_size` rows (up to 2^-23, the grid
    that makes projections exact); blocks are drawn independently. The first rows do not
    depend on `code_bits`: a narrow rotation is a prefix of a wide one.

    Returns:
        fp32 [code_bits, embedding_size], every entry a multiple of 2^-23.

    Raises:
        ConfigError: a size is outside 1..4096.
    """
    for name, size in (("embedding_size", embedding_size), ("code_bits", code_bits)):
        if not 1 <= size <= _MAX_SIZE:
            raise ConfigError(f"{name} must be from 1 to {_MAX_SIZE}, got {size}; choose a smaller {name}")
    coordinate = np.arange(embedding_size)
    blocks = []
    for block in range(-(-code_bits // embedding_size)):
        # Box-Muller: two keyed uniforms per entry, the first one in (0, 1].
        u, v = (
            rng.uniform(rng.draw(seed ^ _ROTATION_TAG, coordinate[:, None], coordinate, 2 * block + part))
            for part in (0, 1)
        )
        normal = np.sqrt(-2.0 * np.log1p(-u)) * np.cos(2.0 * np.pi * v)  # [embedding_size, embedding_size]
        q, r = np.linalg.qr(normal.T)
        blocks.append((q * np.sign(np.diag(r))).T)  # the signs make the factorisation unique
    stacked = np.concatenate(blocks)[:code_bits]
    return (np.rint(stacked / _ROTATION_GRID) * _ROTATION_GRID).astype(np.float32)


def project(embeddings: F32, rotated_by: F32 | None) -> F64:
    """Rotated coordinates y = R x, rounded once, on a grid 2^-24 of each row's largest coordinate.

    Args:
        embeddings: fp32 [n, embedding_size], finite.
        rotated_by: a `rotation` [code_bits, embedding_size]; None when a model has learned the
            coordinates whose signs are the code.

    Returns:
        fp64 [n, code_bits]; the same bits however the rows are cut into calls.

    Raises:
        InputError: NaN or infinite coordinates, or widths that do not agree.
    """
    if not np.isfinite(embeddings).all():
        raise InputError("embeddings must be finite, got NaN or infinity; look for it in the layer before")
    if rotated_by is None:
        return embeddings.astype(np.float64)
    if embeddings.shape[1] != rotated_by.shape[1]:
        raise InputError(
            f"embeddings must have {rotated_by.shape[1]} columns as the rotation has, "
            f"got {embeddings.shape[1]}; use the run's own rotation"
        )
    matrix = rotated_by.astype(np.float64).T / _ROTATION_GRID  # integers, [embedding_size, code_bits]
    projected = np.empty((len(embeddings), matrix.shape[1]))
    for start in range(0, len(embeddings), _BLOCK):
        rows = embeddings[start : start + _BLOCK].astype(np.float64)
        _, exponent = np.frexp(np.abs(rows).max(axis=1, initial=0.0))
        grid = np.ldexp(1.0, exponent - _COORDINATE_BITS)[:, None]
        exact = np.rint(rows / grid) @ matrix  # integers below 2^53, [<= _BLOCK, code_bits]
        projected[start : start + _BLOCK] = exact * (grid * _ROTATION_GRID)
    return projected


def pack_bits(x: ArrayLike) -> I64:
    """The one definition of a code's bits: bit = (x > 0); zeros of either sign give 0.

    Args:
        x: numpy array or CPU torch tensor [n, code_bits], any real dtype.

    Returns:
        int64 words [n, code_bits / 64], least significant bit first.

    Raises:
        ConfigError: code_bits is not a multiple of 64.
    """
    positive = np.asarray(x > 0)  # type: ignore[operator]  # [n, code_bits]
    if positive.shape[1] % WORD_BITS:
        raise ConfigError(
            f"code_bits must be a multiple of {WORD_BITS}, got {positive.shape[1]}; pad the hash layer"
        )
    octets = np.ascontiguousarray(np.packbits(positive, axis=1, bitorder="little"))
    return octets.view("<i8").astype(np.int64, copy=False)


def pack_bits_sql(column: str, code_bits: int) -> str:
    """`pack_bits` as a Spark SQL expression over an array column of `code_bits` numbers."""
    word = (
        f"aggregate(sequence(0, {WORD_BITS - 1}), 0L, "
        f"(w, b) -> w | shiftleft(CAST({column}[k * {WORD_BITS} + b] > 0 AS BIGINT), b))"
    )
    return f"transform(sequence(0, {code_bits // WORD_BITS - 1}), k -> {word})"


def unpack_bits(code: I64) -> NDArray[np.bool_]:
    """Bits of packed codes: bool [n, 64 * words] from int64 [n, words]."""
    octets = np.ascontiguousarray(code, dtype="<i8").view(np.uint8)
    return np.unpackbits(octets, axis=1, bitorder="little").astype(np.bool_)


def signs(code: I64) -> F32:
    """Codes as vectors of -1 and +1: fp32 [n, code_bits].

    The inner product of two of them is code_bits - 2 * Hamming distance.
    """
    return np.where(unpack_bits(code), np.float32(1), np.float32(-1))


def encode(embeddings: F32, rotated_by: F32 | None) -> tuple[I64, F32]:
    """Codes and scales of embeddings; a zero vector gets the all-zero code and scale 0.

    Args:
        embeddings: fp32 [n, embedding_size], finite.
        rotated_by: as in `project`.

    Returns:
        int64 words [n, code_bits / 64] and fp32 scales [n].

    Raises:
        InputError: as `project`.
        ConfigError: as `pack_bits`.
    """
    return _codes_of(project(embeddings, rotated_by))


def _codes_of(projected: F64) -> tuple[I64, F32]:
    return pack_bits(projected), np.abs(projected).mean(axis=1).astype(np.float32)


def codes_from_embeddings(
    embeddings: DataFrame, index: settings.Index, seed: int, *, learned: bool
) -> DataFrame:
    """One row per node and code width.

    Args:
        embeddings: node_type, node_id, external_id, embedding ARRAY<FLOAT>.
        index: its `code_bits` are the widths.
        seed: of the rotation.
        learned: whether the embedding is the output of a hash layer, whose signs are the
            code; it must then have as many coordinates as the widest code.

    Returns:
        code_bits, node_type, node_id, external_id, code, scale.

    Raises:
        EmptyInputError: no embeddings.
    """
    first = embeddings.select(F.size("embedding").alias("size")).first()
    if first is None:
        raise EmptyInputError("embeddings must hold rows, got none; run the layers first")
    rotated_by = None if learned else rotation(seed, first["size"], max(index.code_bits))
    columns = embeddings.select("node_type", "node_id", "external_id", "embedding")
    schema = (
        "code_bits INT, node_type STRING, node_id BIGINT, external_id STRING, code ARRAY<BIGINT>, scale FLOAT"
    )
    return columns.mapInArrow(_encoder(sorted(index.code_bits), rotated_by), schema)


def _encoder(widths: Sequence[int], rotated_by: F32 | None) -> Step:
    def encode_batches(batches: Batches) -> Batches:
        for batch in batches:
            if not batch.num_rows:
                continue
            projected = project(vectors(batch.column("embedding")), rotated_by)  # [rows, widest]
            if projected.shape[1] < widths[-1]:
                raise InputError(
                    f"embedding must have at least {widths[-1]} coordinates for {widths[-1]}-bit codes, "
                    f"got {projected.shape[1]}; lower index.code_bits"
                )
            for width in widths:
                code, scale = _codes_of(projected[:, :width])
                ends = np.arange(len(code) + 1, dtype=np.int32) * code.shape[1]
                yield pa.RecordBatch.from_pydict(
                    {
                        "code_bits": np.full(len(code), width, np.int32),
                        **{name: batch.column(name) for name in ("node_type", "node_id", "external_id")},
                        "code": pa.ListArray.from_arrays(ends, code.ravel()),
                        "scale": scale,
                    }
                )

    return encode_batches


def vectors(column: Any) -> F32:
    """An Arrow list column of floats as fp32 [rows, size].

    Raises:
        InputError: rows of unequal length, or nulls.
    """
    values = column.flatten()
    sizes = column.value_lengths().to_numpy(zero_copy_only=False)
    if column.null_count or values.null_count or (sizes != sizes[0]).any():
        raise InputError(
            f"embedding must have one size and no nulls, got sizes {np.nanmin(sizes):.0f} to "
            f"{np.nanmax(sizes):.0f}; rebuild the embeddings"
        )
    flat: F32 = values.to_numpy().astype(np.float32, copy=False)
    return flat.reshape(len(column), int(sizes[0]))

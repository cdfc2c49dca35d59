"""Sign codes: which bits an embedding becomes, and how codes are compared.

    y = R x                              R: seeded random rotation; y = x where a model learned the code
    bit_b = (residual of y_b > 0)        packed in 64-bit words, least significant bit first
    scale = <x, x> / sum_b w_b y_b s_b   s_b = 2 bit_b - 1

Bits beyond the embedding's size are further planes of it, as in a number's binary digits, or further
rotations. Bit b belongs to coordinate c = b mod size of plane p = b div size:

    planes      residual of y_b = y_c - sigma * sum_(planes before p) w s     sigma = |x| / sqrt(size)
    rotations   residual of y_b = y_b, w = 1; R is a stack of independent rotations

Symmetric distance of two codes: the number of bits in which they differ (Hamming), for which more rotations
are better. Asymmetric score of a float query q and a coded item, for which more planes are better:

    score(q, item) = scale * sum_b w_b (R q)_b s_b

It estimates <q, x>, and is <x, x> for x itself: what is added to the float score, as an item's prior, is
added to this one. To a Hamming distance of a context and an item the prior is added as 64 more bits: a
context's are all ones, an item's as many as its prior is worth.

The projection is computed in integers that fp64 holds exactly: no bit depends on a block
shape, a batch boundary, a thread count or a BLAS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from walkbits import rng, schemas, settings
from walkbits.errors import ConfigError, EmptyInputError, InputError
from walkbits.tables.rows import Batches, Step
from walkbits.types import F32, F64, I64

WORD_BITS: Final = 64

_ROTATION_TAG: Final = int.from_bytes(b"rotation", "big")
_ROTATION_GRID: Final = 2.0**-23
_COORDINATE_BITS: Final = 24
_MAX_SIZE: Final = 4096
"""24 + 23 bits a product, and at most sqrt(4096) = 2^6 of them at full length: 2^53."""

_STEPS: Final = (1.5958, 0.9957, 0.5860, 0.3352, 0.1881, 0.1041, 0.0569, 0.0308)
"""Between levels of 1 to 8 bits, of least square error for a normal coordinate of deviation 1 (Max 1960)."""

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


def prior_codes(prior: F32, largest: float, worth: float) -> I64:
    """An item's prior in ones, against all ones of a context: int64 [n].

    Args:
        prior: fp32 [n].
        largest: of all items.
        worth: by how much the score falls with one more bit that differs (`Coder.worth`). A prior that is
            smaller by so much costs a bit, 64 at most.
    """
    missing = np.rint((largest - prior.astype(np.float64)) / worth).clip(0, WORD_BITS)
    shift = np.minimum(missing, WORD_BITS - 1).astype(np.uint64)
    ones = np.where(missing < WORD_BITS, np.uint64(2**WORD_BITS - 1) >> shift, np.uint64(0))
    return ones.view(np.int64)


@dataclass(frozen=True)
class Coder:
    """How embeddings become codes.

    Attributes:
        rotated_by: A `rotation` [rows, embedding_size]; None where a model has learned the coordinates whose
            signs are the code.
        planes: Whether bits beyond the rows are further planes.
    """

    rotated_by: F32 | None
    planes: bool = False

    @classmethod
    def of(cls, index: settings.Index, seed: int, embedding_size: int, *, learned: bool) -> Coder:
        """The coder of a run.

        Args:
            index: its widest code decides how many rotations are drawn.
            seed: of the rotations.
            learned: whether the embedding is the output of a hash layer.
        """
        if learned:
            return cls(None)
        planes, widest = index.wide_codes == "planes", max(index.code_bits)
        rows = min(widest, embedding_size) if planes else widest
        return cls(rotation(seed, embedding_size, rows), planes)

    def encode(self, embeddings: F32, code_bits: int) -> tuple[I64, F32]:
        """Codes and scales of embeddings; a zero vector gets the all-zero code and scale 0.

        Args:
            embeddings: fp32 [n, embedding_size], finite.
            code_bits: a multiple of 64.

        Returns:
            int64 words [n, code_bits / 64] and fp32 scales [n].

        Raises:
            InputError: as `project`, or there are not so many bits.
            ConfigError: as `pack_bits`.
        """
        return self.codes_of(project(embeddings, self.rotated_by), embeddings, code_bits)

    def codes_of(self, projected: F64, embeddings: F32, code_bits: int) -> tuple[I64, F32]:
        """`encode` of embeddings that are projected already."""
        width = projected.shape[1]
        squares = (embeddings.astype(np.float64) ** 2).sum(axis=1)  # [n]
        sigma = np.sqrt(squares / embeddings.shape[1])[:, None]
        residual, kept, parts = projected, np.zeros(len(projected)), []
        for weights in self._weights(width, code_bits):
            count = len(weights)
            parts.append(residual[:, :count])
            worth = np.where(parts[-1] > 0, weights, -weights)  # [n, count]
            kept += (projected[:, :count] * worth).sum(axis=1)
            residual = parts[-1] - sigma * worth
        scale = np.divide(squares, kept, out=np.zeros_like(squares), where=kept > 0)
        return pack_bits(np.concatenate(parts, axis=1)), scale.astype(np.float32)

    def queries(self, vectors: F32, code_bits: int) -> F64:
        """What each bit counts for a float query, w_b (R q)_b: fp64 [n, code_bits]."""
        projected = project(vectors, self.rotated_by)
        weights = self._weights(projected.shape[1], code_bits)
        return np.concatenate([projected[:, : len(one)] * one for one in weights], axis=1)

    def worth(self, code_bits: int) -> float:
        """By how much the cosine of unit vectors falls with one more bit that differs.

        Of random rotations a share angle / pi of the bits differs. A hash layer was trained on the cosine of
        the signs themselves.
        """
        return (2.0 if self.rotated_by is None else np.pi) / code_bits

    def _weights(self, width: int, code_bits: int) -> list[F64]:
        """W of each plane's bits; a coordinate of m bits has the levels of the best uniform quantiser."""
        if code_bits > width and not self.planes:
            raise InputError(
                f"embedding must have at least {code_bits} coordinates for {code_bits}-bit codes, "
                f"got {width}; lower index.code_bits"
            )
        if code_bits <= width:
            return [np.ones(code_bits)]
        bits = (code_bits - np.arange(width) - 1) // width + 1  # of each coordinate
        known = np.minimum(bits, len(_STEPS))
        step = np.array(_STEPS)[known - 1]
        return [(step * 2.0 ** (known - plane - 2))[bits > plane] for plane in range(int(bits[0]))]


def codes_from_embeddings(
    embeddings: DataFrame, index: settings.Index, seed: int, *, learned: bool
) -> DataFrame:
    """One row per node and code width.

    Args:
        embeddings: node_type, node_id, external_id, embedding ARRAY<FLOAT>, prior.
        index: its `code_bits` are the widths.
        seed: of the rotation.
        learned: whether the embedding is the output of a hash layer, whose signs are the
            code; it must then have as many coordinates as the widest code.

    Returns:
        code_bits, node_type, node_id, external_id, code, scale, prior_code.

    Raises:
        EmptyInputError: no embeddings.
    """
    first = embeddings.select(F.size("embedding").alias("size")).first()
    if first is None:
        raise EmptyInputError("embeddings must hold rows, got none; run the layers first")
    # Of the one column: the vectors are read once, to be coded.
    largest = embeddings.where(F.col("node_type") == schemas.ITEM).agg(F.max("prior")).collect()[0][0]
    coder = Coder.of(index, seed, first["size"], learned=learned)
    columns = embeddings.select("node_type", "node_id", "external_id", "embedding", "prior")
    schema = (
        "code_bits INT, node_type STRING, node_id BIGINT, external_id STRING, code ARRAY<BIGINT>, "
        "scale FLOAT, prior_code BIGINT"
    )
    return columns.mapInArrow(_encoder(sorted(index.code_bits), coder, largest or 0.0), schema)


def _encoder(widths: Sequence[int], coder: Coder, largest: float) -> Step:
    def encode_batches(batches: Batches) -> Batches:
        for batch in batches:
            if not batch.num_rows:
                continue
            embeddings = vectors(batch.column("embedding"))
            projected = project(embeddings, coder.rotated_by)  # [rows, coordinates]
            is_item = batch.column("node_type").to_numpy(zero_copy_only=False) == schemas.ITEM
            prior = np.where(is_item, batch.column("prior").to_numpy(), np.float32(largest))
            for width in widths:
                code, scale = coder.codes_of(projected, embeddings, width)
                ends = np.arange(len(code) + 1, dtype=np.int32) * code.shape[1]
                yield pa.RecordBatch.from_pydict(
                    {
                        "code_bits": np.full(len(code), width, np.int32),
                        **{name: batch.column(name) for name in ("node_type", "node_id", "external_id")},
                        "code": pa.ListArray.from_arrays(ends, code.ravel()),
                        "scale": scale,
                        "prior_code": prior_codes(prior, largest, coder.worth(width)),
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

"""Vectors and lists on their way between Arrow batches and plain arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from walkbits.errors import InputError
from walkbits.types import F32, I32, I64


def read_vectors(column: Any, width: int, dtype: str = "<f4") -> F32:
    """A BINARY column of little-endian vectors, fp32 unless `dtype` says "<f2", or one of ARRAY<FLOAT>.

    Returns:
        fp32 [rows, width]; of fp32 vectors without a copy and read-only.

    Raises:
        InputError: a vector of another width, or a null in one.
    """
    if pa.types.is_list(column.type):
        column = _as_binary(column)
    offsets = _binary_offsets(column)
    sizes = np.diff(offsets)
    size = np.dtype(dtype).itemsize * width
    if (sizes != size).any():
        wrong = int(sizes[sizes != size][0])
        raise InputError(
            f"vectors must hold {width} fp{8 * size // width} values ({size} bytes), "
            f"got one of {wrong} bytes; infer with the features that the model was trained on"
        )
    if not len(column):
        return np.empty((0, width), np.float32)
    flat = np.frombuffer(column.buffers()[2], dtype, len(column) * width, int(offsets[0]))
    return flat.reshape(-1, width).astype(np.float32, copy=False)


def _as_binary(lists: Any) -> pa.Array:
    """ARRAY<FLOAT> rows as the bytes they are, on the same memory."""
    if lists.null_count or lists.values.null_count:
        raise InputError("vectors must hold no nulls, got some; rebuild the embeddings")
    offsets = (lists.offsets.to_numpy() + lists.values.offset) * 4
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), lists.values.buffers()[1]]
    return pa.Array.from_buffers(pa.binary(), len(lists), buffers)


def _binary_offsets(column: Any) -> I64:
    if not len(column):
        return np.zeros(1, np.int64)
    width = np.int64 if pa.types.is_large_binary(column.type) else np.int32
    raw = np.frombuffer(column.buffers()[1], width)
    return raw[column.offset : column.offset + len(column) + 1].astype(np.int64)


def read_lists(column: Any) -> tuple[I64, I32]:
    """A BINARY column of little-endian int32 lists, without a copy.

    Returns:
        indptr int64 [rows + 1] from 0, values int32 [indptr[-1]], read-only.

    Raises:
        InputError: a row that is not whole numbers.
    """
    offsets = _binary_offsets(column)
    if (np.diff(offsets) % 4).any():
        raise InputError("lists must hold whole int32 values, got a row of another size; rebuild the table")
    indptr = (offsets - offsets[0]) // 4
    if not indptr[-1]:
        return indptr, np.empty(0, np.int32)
    return indptr, np.frombuffer(column.buffers()[2], "<i4", int(indptr[-1]), int(offsets[0]))


def list_array(indptr: I64, values: I32) -> pa.Array:
    """values[indptr[i]:indptr[i + 1]] as BINARY rows, little-endian int32, on the same memory."""
    flat = np.ascontiguousarray(values, "<i4")
    offsets = (np.asarray(indptr) * 4).astype(np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(flat)]
    return pa.Array.from_buffers(pa.binary(), len(indptr) - 1, buffers)


def binary_array(rows: F32 | I32, dtype: str = "<f4") -> pa.Array:
    """fp32 [n, width] as BINARY rows, little-endian; as fp32 on the same memory."""
    flat = np.ascontiguousarray(rows, dtype)
    offsets = np.arange(len(flat) + 1, dtype=np.int32) * (flat.itemsize * flat.shape[1])
    return pa.Array.from_buffers(pa.binary(), len(flat), [None, pa.py_buffer(offsets), pa.py_buffer(flat)])


def float_lists(rows: F32) -> pa.Array:
    """fp32 [n, width] as ARRAY<FLOAT> rows, on the same memory."""
    flat = np.ascontiguousarray(rows).reshape(-1)
    offsets = np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1]
    values = pa.array(flat)
    kind = pa.list_(pa.field("element", pa.float32(), nullable=False))
    return pa.Array.from_buffers(kind, len(rows), [None, pa.py_buffer(offsets)], children=[values])

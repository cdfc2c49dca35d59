"""Vectors on their way between Arrow batches, plain arrays and the mapped matrix of a host."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from walkbits.errors import InputError

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]


def read_vectors(column: Any, width: int, dtype: str = "<f4") -> F32:
    """A BINARY column of little-endian vectors, fp32 unless `dtype` says "<f2".

    Returns:
        fp32 [rows, width]; of fp32 vectors without a copy and read-only.

    Raises:
        InputError: a vector of another width.
    """
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


def create_matrix(path: Path, rows: int, width: int, dtype: str = "<f4") -> None:
    """A .npy file of zeros, fp32 unless `dtype` says "<i4"; sparse on disk until rows are written."""
    np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(max(rows, 1), width))


def open_matrix(path: Path) -> F32:
    """The file of `create_matrix`, mapped read-only: fp32 [rows, width]."""
    return np.asarray(np.load(path, mmap_mode="r"))


class MatrixWriter:
    """Writes rows of a matrix file by position; tasks on any host may write their own rows at once.

    Equal rows may be written twice, as a retried task does.
    """

    def __init__(self, path: Path) -> None:
        mapped = np.load(path, mmap_mode="r")
        self._rows, self._width = mapped.shape
        self._start, self._dtype = mapped.offset, mapped.dtype
        # pwrite, not a mapped page: two hosts that share a page over a network file system
        # would overwrite each other's half of it.
        self._file = os.open(path, os.O_WRONLY)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def write(self, nodes: I32 | I64, rows: F32 | I32) -> None:
        """Put `rows` [n, width] of the file's type at positions `nodes` [n].

        Raises:
            InputError: a position outside the matrix.
        """
        if not len(nodes):
            return
        if int(nodes.min()) < 0 or int(nodes.max()) >= self._rows:
            raise InputError(
                f"node must be an index below {self._rows}, got {nodes.min()} to {nodes.max()}; "
                "infer with the features of the run's own graph"
            )
        if (np.diff(nodes) < 0).any():
            order = np.argsort(nodes, kind="stable")
            nodes, rows = nodes[order], rows[order]
        rows = np.ascontiguousarray(rows, self._dtype)
        starts = np.concatenate([[0], np.flatnonzero(np.diff(nodes) != 1) + 1, [len(nodes)]])
        for begin, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            self._put(
                rows[begin:end].reshape(-1).view(np.uint8).data,
                self._start + int(nodes[begin]) * 4 * self._width,
            )

    def _put(self, data: memoryview, position: int) -> None:
        while data:
            written = os.pwrite(self._file, data, position)
            data, position = data[written:], position + written

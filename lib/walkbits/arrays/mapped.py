"""Arrays that tasks write in parts and hosts map.

In a folder that every host mounts, an array is one .npy file: tasks write their rows in place, and every
host maps it in place. Below a URI an array is a folder:

    <name>.npy/header.json      shape, type, and the token of this writing
    <name>.npy/<token>/<part>   rows of one attempt of a task, with their positions and checksums
    <name>.npy/<token>/<part>.whole   its bytes and rows, once it is whole

Object stores support neither writing in place nor renaming. So an attempt writes an object of its own, and a
second one when the first is whole: readers ignore a part without it, which a killed attempt left, and refuse
one that is not as it says. Retried and speculative attempts write the same rows, so duplicates are harmless.
The first worker of an executor
that opens an array assembles its file on the executor's own disk; all its workers map that one.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from pyspark import SparkFiles, TaskContext

from walkbits.arrays.parts import HEADER, Header, PartWriter, as_bytes, take_parts
from walkbits.arrays.places import (
    Place,
    Remote,
    files_below,
    make_folder,
    read_bytes,
    remove,
    unique_name,
)
from walkbits.errors import InputError, WalkbitsError
from walkbits.types import F32, I32, I64

SUFFIX: Final = ".npy"
"""Every array's name ends so, and no other file's."""
_REGION: Final = 2 << 20
"""Bytes of one write in place, where it begins at a multiple of them. A file system whose cache knows large
pages then holds them in one, which the processor finds by one entry of its translation buffer: to read rows
at random takes a third of the time."""


def create_array(array: Place, shape: tuple[int, ...], dtype: Any) -> None:
    """An array of zeros, in the place of whatever was there; its folder is made."""
    if isinstance(array, Path):
        make_folder(array.parent)
        _allocate(array, shape, np.dtype(dtype))
        return
    remove(array)
    header = Header(unique_name(), shape, np.dtype(dtype))
    make_folder(array / header.token)
    header.write(array)


def create_matrix(matrix: Place, rows: int, width: int, dtype: str = "<f4") -> None:
    """`create_array` [rows, width], fp32 unless `dtype` says "<i4"; a matrix has at least one row."""
    create_array(matrix, (max(rows, 1), width), dtype)


def save_array(array: Place, values: NDArray[Any]) -> None:
    """A whole small array at once."""
    create_array(array, values.shape, values.dtype)
    with ArrayWriter(array) as writer:
        writer.write_run(0, values)


def open_array(array: Place) -> NDArray[Any]:
    """The array, mapped read-only.

    Raises:
        OSError: it is not there.
        ValueError: it is damaged.
        WalkbitsError: the executor's disk cannot hold its copy.
    """
    return np.asarray(np.load(local(array), mmap_mode="r"))


def open_matrix(matrix: Place) -> F32:
    """The matrix of `create_matrix`, mapped read-only: [rows, width]."""
    return open_array(matrix)


def open_file(file: Place) -> io.BytesIO | io.BufferedReader:
    """A file to read; an array as the file that hosts map."""
    if isinstance(file, Remote) and not file.below.endswith(SUFFIX):
        return io.BytesIO(read_bytes(file))
    return local(file).open("rb")


def files_of(folder: Place) -> list[str]:
    """Names of a folder's files, sorted, each array being one file."""
    if isinstance(folder, Path):
        return files_below(folder)
    inner, end = f"{SUFFIX}/", f"{SUFFIX}/{HEADER}"
    names = [name for name in files_below(folder) if inner not in name or name.endswith(end)]
    return sorted(name.removesuffix(f"/{HEADER}") for name in names)


def folder_digest(folder: Place) -> tuple[int, str]:
    """Bytes and sha256 of a folder's files by sorted name; (0, "") when there is none.

    Equal files give equal digests, wherever they are stored.
    """
    digest, size = hashlib.sha256(), 0
    files = files_of(folder)
    for name in files:
        digest.update(name.encode())
        with open_file(folder / name) as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
            size += stream.seek(0, os.SEEK_END)
    return size, digest.hexdigest() if files else ""


class ArrayWriter:
    """Writes rows of an array by position; tasks on any host may write their own rows at once.

    Equal rows may be written twice, as a retried task does. Below a URI the rows are there once the
    `with` ends without an exception. `region` is the size in bytes of one write in place.
    """

    def __init__(self, array: Place, region: int = _REGION) -> None:
        self._sink = _InPlace(array, region) if isinstance(array, Path) else PartWriter(array)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._sink.close(whole=kind is None)

    def write(self, nodes: I32 | I64, rows: NDArray[Any]) -> None:
        """Put `rows` [n, ...] of the array's type at positions `nodes` [n].

        Raises:
            InputError: a position outside the array.
        """
        if not len(nodes):
            return
        length = self._sink.shape[0]
        if int(nodes.min()) < 0 or int(nodes.max()) >= length:
            raise InputError(
                f"node must be an index below {length}, got {nodes.min()} to {nodes.max()}; "
                "infer with the features of the run's own graph"
            )
        if (np.diff(nodes) < 0).any():
            order = np.argsort(nodes, kind="stable")
            nodes, rows = nodes[order], rows[order]
        self._sink.put(nodes, np.ascontiguousarray(rows, self._sink.dtype))

    def write_run(self, first: int, rows: NDArray[Any]) -> None:
        """Put `rows` [n, ...] at positions first, first + 1, ..."""
        if len(rows):
            self._sink.put_run(first, np.ascontiguousarray(rows, self._sink.dtype))

    def sync(self) -> None:
        """Have what was written survive a crash of this host; below a URI the end of the `with` does."""
        self._sink.sync()


class _InPlace:
    """Rows into the one file; what follows each other is held until a region of it is whole."""

    def __init__(self, path: Path, region: int) -> None:
        mapped = np.load(path, mmap_mode="r")
        self.shape, self.dtype, self._start = mapped.shape, mapped.dtype, mapped.offset
        self._row_bytes = self.dtype.itemsize * math.prod(self.shape[1:])
        # pwrite, not a mapped page: two hosts that share a page over a network file system
        # would overwrite each other's half of it.
        self._file = os.open(path, os.O_WRONLY)
        self._held, self._end, self._region = bytearray(), 0, region

    def put(self, nodes: I32 | I64, rows: NDArray[Any]) -> None:
        """Ascending positions, a stretch of consecutive ones at a time."""
        starts = np.concatenate([[0], np.flatnonzero(np.diff(nodes) != 1) + 1, [len(nodes)]])
        for begin, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            self.put_run(int(nodes[begin]), rows[begin:end])

    def put_run(self, first: int, rows: NDArray[Any]) -> None:
        data, position = as_bytes(rows), self._start + first * self._row_bytes
        if position != self._end:
            self._flush()
            self._end = position
        while data:
            piece = data[: self._region - self._end % self._region]
            if self._held or len(piece) < self._region:
                self._held += piece
            else:
                self._write(piece, self._end)
            self._end += len(piece)
            if self._end % self._region == 0:
                self._flush()
            data = data[len(piece) :]

    def _flush(self) -> None:
        self._write(memoryview(self._held), self._end - len(self._held))
        self._held = bytearray()

    def _write(self, data: memoryview, position: int) -> None:
        while data:
            written = os.pwrite(self._file, data, position)
            data, position = data[written:], position + written

    def sync(self) -> None:
        self._flush()
        os.fsync(self._file)

    def close(self, whole: bool) -> None:
        """Write what is held, unless after an exception, and close the file."""
        try:
            if whole:
                self._flush()
        finally:
            os.close(self._file)


def local(array: Place) -> Path:
    """The array as a file that this host maps: itself, or this executor's copy, made where it is missing.

    Raises:
        OSError: it is not there.
        WalkbitsError: the executor's disk cannot hold the copy.
    """
    return array if isinstance(array, Path) else _copied(array, _disks())


def _disks() -> list[Path]:
    """Where this executor, or the driver, spills; Spark removes it with them."""
    if TaskContext.get() is None:
        return [Path(SparkFiles.getRootDirectory())]
    return [Path(disk) for disk in os.environ["SPARK_LOCAL_DIRS"].split(",")]


def _copied(array: Remote, disks: Sequence[Path]) -> Path:
    header = Header.read(array)
    folder = disks[int(header.token, 16) % len(disks)] / "walkbits"  # all workers look on one disk
    copy = folder / f"{header.token}{SUFFIX}"
    if not copy.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / "lock"):
            if not copy.exists():
                _drop_stale(folder)
                _assemble(array, header, copy)
    return copy


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time; a killed one lets go."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _drop_stale(folder: Path) -> None:
    """Delete the copies of arrays that the driver has dropped or made anew."""
    for source in folder.glob("*.source"):
        array = Remote(*json.loads(source.read_text(encoding="utf-8")))
        try:
            token = Header.read(array).token
        except (FileNotFoundError, ValueError):
            token = None
        if token != source.stem:
            for suffix in (SUFFIX, ".writing", ".source"):
                source.with_suffix(suffix).unlink(missing_ok=True)


def _assemble(array: Remote, header: Header, copy: Path) -> None:
    copy.with_suffix(".source").write_text(json.dumps([array.base, array.below]), encoding="utf-8")
    writing = copy.with_suffix(".writing")
    _allocate(writing, header.shape, header.dtype)
    with writing.open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            # A mapped page that finds no room would kill the worker without a word.
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise WalkbitsError(
                f"spark.local.dir must have room for what a host maps, got '{copy.parent}' without the "
                f"{size:,} bytes of '{array}' ({error.strerror}); name a larger disk"
            ) from error
    rows = np.lib.format.open_memmap(writing, mode="r+")
    take_parts(array, header, rows)
    writing.rename(copy)


def _allocate(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """A .npy file of zeros, sparse until it is written."""
    with path.open("wb") as file:
        descr = np.lib.format.dtype_to_descr(dtype)
        header = {"descr": descr, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + math.prod(shape) * dtype.itemsize)

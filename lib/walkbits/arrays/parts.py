"""Arrays below a URI: rows in parts with checksums, and a mark when a part is whole; see arrays.mapped."""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from walkbits.arrays.places import Remote, files_below, read_bytes, unique_name, write_bytes
from walkbits.errors import InputError
from walkbits.types import I32, I64

HEADER: Final = "header.json"
_FRAME: Final = struct.Struct("<qqI")
"""Before some rows: how many, and where the first goes, SCATTERED if their positions, int64, follow; and the
CRC-32 of what follows."""
_SCATTERED: Final = -1
_WHOLE: Final = ".whole"
_BUFFER: Final = 8 << 20
_STREAMS: Final = 8
"""Parts read at once: one stream of an object store does not fill a host's network."""


@dataclass(frozen=True)
class Header:
    """What an array below a URI is.

    Attributes:
        token: Of this writing; an array that is made anew gets another, and so other copies.
    """

    token: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @classmethod
    def read(cls, array: Remote) -> Header:
        header = json.loads(read_bytes(array / HEADER))
        return cls(header["token"], tuple(header["shape"]), np.dtype(header["dtype"]))

    def write(self, array: Remote) -> None:
        header = {"token": self.token, "shape": self.shape, "dtype": self.dtype.str}
        write_bytes(array / HEADER, json.dumps(header).encode())


class PartWriter:
    """Rows into an object of this attempt's own, made when the first come."""

    def __init__(self, array: Remote) -> None:
        header = Header.read(array)
        self.shape, self.dtype = header.shape, header.dtype
        self._place = array / header.token / unique_name()
        self._stream: Any = None
        self._size = self._rows = 0

    def put(self, nodes: I32 | I64, rows: NDArray[Any]) -> None:
        """Ascending positions."""
        if int(nodes[-1]) - int(nodes[0]) + 1 == len(nodes) and (np.diff(nodes) == 1).all():
            self.put_run(int(nodes[0]), rows)
        else:
            self._append(_SCATTERED, len(rows), as_bytes(nodes.astype("<i8")), as_bytes(rows))

    def put_run(self, first: int, rows: NDArray[Any]) -> None:
        self._append(first, len(rows), as_bytes(rows))

    def _append(self, first: int, count: int, *payload: memoryview) -> None:
        if self._stream is None:
            system, path = self._place.open()
            self._stream = system.open_output_stream(path, buffer_size=_BUFFER)
        checksum = 0
        for piece in payload:
            checksum = zlib.crc32(piece, checksum)
        for data in (_FRAME.pack(count, first, checksum), *payload):
            self._stream.write(data)
            self._size += len(data)
        self._rows += count

    def sync(self) -> None:
        """Nothing is there before the end."""

    def close(self, whole: bool) -> None:
        """Close the object, and say that it is whole unless after an exception."""
        if self._stream is not None:
            self._stream.close()
            if whole:
                mark = Remote(self._place.base, f"{self._place.below}{_WHOLE}")
                write_bytes(mark, json.dumps({"bytes": self._size, "rows": self._rows}).encode())


def take_parts(array: Remote, header: Header, rows: NDArray[Any]) -> None:
    """Put the rows of all whole parts where they belong.

    Raises:
        InputError: a part is not as its task left it.
    """
    parts = array / header.token
    whole = [name for name in files_below(parts) if name.endswith(_WHOLE)]
    with ThreadPoolExecutor(_STREAMS) as pool:
        for _ in pool.map(lambda name: _take(parts / name.removesuffix(_WHOLE), parts / name, rows), whole):
            pass


def _take(part: Remote, mark: Remote, rows: NDArray[Any]) -> None:
    footer = json.loads(read_bytes(mark))
    system, path = part.open()
    try:
        with system.open_input_file(path) as file:
            if file.size() != footer["bytes"]:
                raise _damaged(part, f"{footer['bytes']} bytes", f"{file.size()}")
            taken = sum(_frames(part, pa.BufferedInputStream(file, _BUFFER), footer["bytes"], rows))
    except FileNotFoundError as error:
        raise _damaged(part, f"{footer['bytes']} bytes", "none") from error
    if taken != footer["rows"]:
        raise _damaged(part, f"{footer['rows']} rows", f"{taken}")


def _frames(part: Remote, stream: Any, left: int, rows: NDArray[Any]) -> Iterator[int]:
    """Land one frame after the other; the rows of each."""
    row_bytes = rows.dtype.itemsize * math.prod(rows.shape[1:])
    while left > 0:
        count, first, checksum = _FRAME.unpack(stream.read(_FRAME.size))
        size = count * (row_bytes + (8 if first == _SCATTERED else 0))
        left -= _FRAME.size + size
        if count < 0 or left < 0:
            raise _damaged(part, "frames of its size", "longer ones")
        payload = stream.read(size)
        if zlib.crc32(payload) != checksum:
            raise _damaged(part, f"checksum {checksum:08x}", f"{zlib.crc32(payload):08x}")
        where: slice | I64 = slice(first, first + count)
        if first == _SCATTERED:
            where = np.frombuffer(payload, "<i8", count)
            payload = payload[8 * count :]
        if first != _SCATTERED and not 0 <= first <= len(rows) - count:
            raise _damaged(part, f"rows below {len(rows)}", f"{first} to {first + count}")
        rows[where] = np.frombuffer(payload, rows.dtype).reshape(count, *rows.shape[1:])
        yield count


def _damaged(part: Remote, expected: str, found: str) -> InputError:
    return InputError(
        f"array part '{part}' must be as its task left it, with {expected}, got {found}; run the stage that "
        "wrote it again"
    )


def as_bytes(values: NDArray[Any]) -> memoryview:
    """The values' bytes, not copied."""
    return values.reshape(-1).view(np.uint8).data

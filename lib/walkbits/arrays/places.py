"""Where plain files are stored: in a folder that all hosts mount, or below a URI that all can access."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from walkbits.errors import ConfigError, WalkbitsError


@dataclass(frozen=True)
class Remote:
    """A folder or file below a URI, reached by pyarrow.fs.

    Attributes:
        base: The URI as configured; its options follow a `?`, so paths are never appended to it.
        below: Path below it, empty or with a leading slash.
    """

    base: str
    below: str = ""

    def __truediv__(self, name: str) -> Remote:
        return Remote(self.base, f"{self.below}/{name}")

    def __str__(self) -> str:
        """For people: without the credentials and options that the URI may hold."""
        parts = urlsplit(self.base)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}{self.below}"

    def open(self) -> tuple[Any, str]:
        """The pyarrow FileSystem and the path in it."""
        system, path = _opened(self.base)
        return system, path + self.below


@functools.cache
def _opened(base: str) -> tuple[Any, str]:
    """Once a process: to look up a bucket's region takes a request."""
    system, path = fs.FileSystem.from_uri(base)
    return system, path.rstrip("/")


Place = Path | Remote
"""What a plain path or a URI of the configuration means; `/` goes down in both."""


def place_of(text: str) -> Place:
    """A text with a scheme (`s3://bucket/x`, `file:///x`) is a URI, any other a path."""
    return Remote(text) if "://" in text else Path(text).resolve()


def link_to(place: Place) -> str:
    """An address to open."""
    return place.resolve().as_uri() if isinstance(place, Path) else str(place)


def read_bytes(file: Place, limit: int | None = None) -> bytes:
    """A small file, or its first `limit` bytes.

    Raises:
        OSError: it is not there or cannot be read.
    """
    if isinstance(file, Path):
        with file.open("rb") as stream:
            return stream.read(-1 if limit is None else limit)
    system, path = file.open()
    with system.open_input_file(path) as stream:
        return bytes(stream.read(limit))


def write_bytes(file: Place, data: bytes) -> None:
    """A small file in the place of whatever was there; its folder is made.

    On a disk a reader sees all of it or none. Below a URI that is so where the storage shows an object
    when it is closed, as object stores do.
    """
    if isinstance(file, Remote):
        make_folder(Remote(file.base, file.below.rpartition("/")[0]))
        system, path = file.open()
        with system.open_output_stream(path) as stream:
            stream.write(data)
        return
    make_folder(file.parent)
    scratch = file.with_suffix(".writing")
    with scratch.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    scratch.replace(file)


def make_folder(folder: Place) -> None:
    """Make a folder and those above it; where storage knows no folders, at most an empty object."""
    if isinstance(folder, Path):
        folder.mkdir(parents=True, exist_ok=True)
    else:
        system, path = folder.open()
        system.create_dir(path, recursive=True)


def exists(place: Place) -> bool:
    """Whether there is a file or folder."""
    if isinstance(place, Path):
        return place.exists()
    system, path = place.open()
    return bool(system.get_file_info(path).type != fs.FileType.NotFound)


def remove(place: Place) -> None:
    """Delete a file or a folder with all that is in it, if it is there."""
    with suppress(FileNotFoundError):
        if isinstance(place, Remote):
            system, path = place.open()
            folder = system.get_file_info(path).type == fs.FileType.Directory
            (system.delete_dir if folder else system.delete_file)(path)
        elif place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink()


def files_below(folder: Place) -> list[str]:
    """Paths of all files below a folder, relative to it and sorted; none where there is no folder."""
    if isinstance(folder, Path):
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    system, path = folder.open()
    found = system.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
    return sorted(one.path.removeprefix(f"{path}/") for one in found if one.type == fs.FileType.File)


def unique_name() -> str:
    """32 hex digits of this host, process and moment: names need no draw."""
    here = f"{socket.gethostname()} {os.getpid()} {time.time_ns()}"
    return hashlib.sha256(here.encode()).hexdigest()[:32]


def check_reachable(artifacts: Place) -> None:
    """Refuse storage that cannot be written, before any work is done.

    Only URIs are probed: a folder is made when it is first written.

    Raises:
        ConfigError: pyarrow knows no such URI.
        WalkbitsError: it cannot be reached or written.
    """
    if isinstance(artifacts, Path):
        return
    probe = artifacts / ".write_probe"
    try:
        write_bytes(probe, b"probe")
        remove(probe)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ConfigError(
            "artifacts must be a folder that every host mounts, or a URI of s3, gs, abfs, hdfs or file, got "
            f"'{artifacts}' ({_first_line(error)}); set artifacts, where s3 is what Spark calls s3a"
        ) from error
    except OSError as error:
        raise WalkbitsError(
            f"artifacts must be storage that every host can write, got '{artifacts}' ({_first_line(error)}); "
            "check its address and the credentials that pyarrow finds, or set artifacts"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

"""Arrays of a plain folder and below a URI: equal files for hosts to map, whatever becomes of the writers."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from walkbits.arrays import mapped, places
from walkbits.arrays.mapped import (
    ArrayWriter,
    create_array,
    create_matrix,
    files_of,
    folder_digest,
    local,
    open_array,
    open_file,
    open_matrix,
    save_array,
)
from walkbits.arrays.places import Place, Remote, check_reachable, place_of, read_bytes, remove, write_bytes
from walkbits.errors import ConfigError, InputError, WalkbitsError

X = np.arange(18, dtype=np.float32).reshape(9, 2)


@pytest.fixture(autouse=True)
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for an executor's disk; copies lie in one folder of it."""
    monkeypatch.setattr(mapped, "_disks", lambda: [tmp_path / "disk"])
    return tmp_path / "disk" / "walkbits"


@pytest.fixture(params=["path", "uri"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """One place for artifacts, by path and by URI."""
    path = tmp_path / "artifacts"
    return place_of(str(path) if request.param == "path" else path.as_uri())


def copies(disk: Path) -> set[str]:
    return {path.name for path in disk.glob("*.npy")}


@given(order=st.permutations(range(9)), remote=st.booleans())
@settings(deadline=None)
def test_a_matrix_takes_rows_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], remote: bool
) -> None:
    path = tmp_path_factory.mktemp("matrix")
    matrix = place_of(path.as_uri() if remote else str(path)) / "m.npy"
    create_matrix(matrix, 9, 2)
    for part in (order[:4], order[4:], order[:2]):  # a retried task writes its rows once more
        with ArrayWriter(matrix) as file:
            file.write(np.array(part, np.int32), X[part])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapped, "_disks", lambda: [path / "disk"])
        np.testing.assert_array_equal(open_matrix(matrix), X)


def test_runs_are_written_in_whole_regions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two writers, in pieces of any length; a write begins at a region's start, or where a run does."""
    values = np.arange(3000)
    create_array(tmp_path / "a.npy", values.shape, values.dtype)
    written: list[tuple[int, int]] = []
    pwrite = os.pwrite

    def seen(file: int, data: memoryview, position: int) -> int:
        written.append((position, len(data)))
        return pwrite(file, data[:700], position)  # a system may write less than it is given

    monkeypatch.setattr(os, "pwrite", seen)
    with ArrayWriter(tmp_path / "a.npy", 1024) as low, ArrayWriter(tmp_path / "a.npy", 1024) as high:
        for first, last in ((0, 5), (5, 1200), (1200, 1201), (1201, 1500)):
            low.write_run(first, values[first:last])
            high.write_run(1500 + first, values[1500 + first : 1500 + last])
        high.write_run(7, values[7:9])  # as a retried task does
    np.testing.assert_array_equal(open_array(tmp_path / "a.npy"), values)
    whole = {position for position, size in written if size == 1024}
    assert len(whole) == 21
    assert all(position % 1024 == 0 for position in whole)


def test_what_is_held_is_there_after_sync_and_not_after_an_error(tmp_path: Path) -> None:
    create_array(tmp_path / "a.npy", (2,), np.int64)
    with ArrayWriter(tmp_path / "a.npy") as writer:
        writer.write_run(0, np.array([5]))
        writer.sync()
        assert open_array(tmp_path / "a.npy").tolist() == [5, 0]
    failed = ArrayWriter(tmp_path / "a.npy")
    failed.write_run(1, np.array([6]))
    failed.__exit__(KeyboardInterrupt)
    assert open_array(tmp_path / "a.npy").tolist() == [5, 0]


@pytest.mark.parametrize("node", [-1, 3])
def test_a_row_outside_the_matrix_is_refused(folder: Place, node: int) -> None:
    create_matrix(folder / "m.npy", 3, 1)
    with ArrayWriter(folder / "m.npy") as file, pytest.raises(InputError, match="index below 3"):
        file.write(np.array([node], np.int32), np.ones((1, 1), np.float32))


@pytest.mark.parametrize("length", [0, 1, 7])
def test_files_and_their_bytes_do_not_depend_on_the_place(folder: Place, tmp_path: Path, length: int) -> None:
    values = np.arange(length)
    expected = tmp_path / "expected"
    write_bytes(expected / "meta.json", b"[]")
    np.save(expected / "a.npy", values)
    save_array(folder / "a.npy", values)
    write_bytes(folder / "meta.json", b"{}")
    write_bytes(folder / "meta.json", b"[]")
    assert folder_digest(folder) == folder_digest(expected)
    assert files_of(folder) == ["a.npy", "meta.json"]
    with open_file(folder / "a.npy") as array, open_file(folder / "meta.json") as small:
        assert array.read() == (expected / "a.npy").read_bytes()
        assert small.read() == read_bytes(folder / "meta.json") == b"[]"
    np.testing.assert_array_equal(open_array(folder / "a.npy"), values)


def test_an_attempt_that_fails_or_is_killed_leaves_no_row_behind(tmp_path: Path) -> None:
    array = Remote(tmp_path.as_uri()) / "a.npy"
    create_array(array, (4,), np.int64)
    parts = next(path for path in (tmp_path / "a.npy").iterdir() if path.is_dir())
    failed = ArrayWriter(array)
    failed.write_run(0, np.full(4, 7))
    failed.__exit__(KeyboardInterrupt)
    with ArrayWriter(array) as whole:
        whole.write(np.array([3, 1]), np.array([13, 11]))
    (mark,) = parts.glob("*.whole")
    part = mark.with_suffix("")
    for cut in (0, 5, len(part.read_bytes()) - 1):  # what a file system shows of a killed writer
        (parts / f"killed{cut}").write_bytes(part.read_bytes()[:cut])
    assert len([*parts.iterdir()]) == 6
    assert open_array(array).tolist() == [0, 11, 0, 13]


DAMAGES = {
    "cut": (lambda data: data[:-3], "bytes, got"),
    "empty": (lambda data: b"", "bytes, got 0"),
    "a bit of a row": (lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:], "checksum"),
    "a bit of a position": (lambda data: data[:24] + bytes([data[24] ^ 1]) + data[25:], "checksum"),
    "a bit of a count": (lambda data: bytes([data[0] ^ 1]) + data[1:], "checksum|frames"),
}


@pytest.mark.parametrize("scattered", [False, True])
@pytest.mark.parametrize("damage", [*DAMAGES, "gone"])
def test_a_part_that_is_no_longer_as_its_task_left_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str, scattered: bool
) -> None:
    monkeypatch.setattr(mapped, "_disks", lambda: [tmp_path / "disk"])
    array = Remote((tmp_path / "far").as_uri()) / "m.npy"
    create_matrix(array, 100, 4)
    for low in (0, 50):
        with ArrayWriter(array) as writer:
            nodes = np.arange(low, low + 50) if not scattered else np.arange(low, low + 50)[::2]
            writer.write(nodes, np.ones((len(nodes), 4), np.float32))
    mark = next((tmp_path / "far" / "m.npy").rglob("*.whole"))
    part = mark.with_suffix("")
    if damage == "gone":
        part.unlink()
        message = "bytes, got none"
    else:
        change, message = DAMAGES[damage]
        part.write_bytes(change(part.read_bytes()))
    with pytest.raises(InputError, match=f"array part .* must be as its task left it.*({message})"):
        open_array(array)


def assembled(array: Remote, disk: Path, started: object, names: object) -> None:
    started.wait()  # type: ignore[attr-defined]
    copy = mapped._copied(array, [disk])
    names.put((copy.name, copy.stat().st_ino))  # type: ignore[attr-defined]


def test_workers_that_open_an_array_at_once_map_one_copy(tmp_path: Path) -> None:
    array = Remote((tmp_path / "far").as_uri()) / "a.npy"
    save_array(array, np.arange(1 << 20))
    spawn = multiprocessing.get_context("spawn")
    started, names = spawn.Barrier(2), spawn.Queue()
    workers = [
        spawn.Process(target=assembled, args=(array, tmp_path / "disk", started, names)) for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    assert names.get(timeout=60) == names.get(timeout=60)
    for worker in workers:
        worker.join()
    np.testing.assert_array_equal(open_array(array), np.arange(1 << 20))


def test_copies_of_dropped_arrays_go_when_the_next_one_is_made(tmp_path: Path, disk: Path) -> None:
    folder = Remote((tmp_path / "far").as_uri())
    for name in ("kept", "dropped", "made anew"):
        save_array(folder / f"{name}.npy", np.arange(3))
        local(folder / f"{name}.npy")
    before = copies(disk)
    assert len(before) == 3
    remove(folder / "dropped.npy")
    save_array(folder / "made anew.npy", np.arange(5))
    assert open_array(folder / "made anew.npy").tolist() == [0, 1, 2, 3, 4]
    assert len(copies(disk)) == 2
    assert copies(disk) & before == {local(folder / "kept.npy").name}
    assert len([*disk.glob("*.source")]) == 2


def test_a_full_disk_is_named(tmp_path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = Remote((tmp_path / "far").as_uri()) / "a.npy"
    save_array(array, np.arange(3))

    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(WalkbitsError, match=r"spark\.local\.dir must have room.*No space left.*larger disk"):
        open_array(array)
    assert not copies(disk)


def test_options_of_a_uri_stay_at_its_end_and_are_not_shown() -> None:
    place = place_of("s3://key:secret@bucket/walkbits/?region=eu-west-1") / "run" / "graph"
    assert place == Remote("s3://key:secret@bucket/walkbits/?region=eu-west-1", "/run/graph")
    assert str(place) == "s3://bucket/walkbits/run/graph"


def test_storage_that_cannot_serve_is_refused_with_the_reason(tmp_path: Path) -> None:
    check_reachable(place_of(str(tmp_path / "none")))
    check_reachable(place_of((tmp_path / "new").as_uri()))
    assert [*(tmp_path / "new").iterdir()] == []
    with pytest.raises(ConfigError, match=r"artifacts must be.* got 's3a://bucket/x' \(Unrecognized.*s3a"):
        check_reachable(place_of("s3a://bucket/x"))
    (tmp_path / "file").touch()
    with pytest.raises(WalkbitsError, match="artifacts must be storage that every host can write, got 'file"):
        check_reachable(place_of((tmp_path / "file" / "x").as_uri()))


def test_removing_what_is_not_there_is_no_error(folder: Place) -> None:
    remove(folder)
    write_bytes(folder / "a" / "b", b"x")
    assert places.exists(folder / "a")
    remove(folder / "a")
    assert not places.exists(folder / "a")
    assert places.files_below(folder / "a") == []

"""What disks do: full ones, flipped bits of data and of logs, files cut or gone."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import reader, world
from support.days import DAY, Day
from support.submitted import look, submit
from walkbits.schemas import EMBEDDINGS, TABLES, Table
from walkbits.stages import daily

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[None]:
    """A file system of its own size at the folder."""
    folder.mkdir(exist_ok=True)
    if os.geteuid():
        pytest.skip("a file system can be mounted by root only")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "walkbits-test", folder],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"tmpfs cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def grow(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=400m", folder], check=True)


@pytest.mark.parametrize("share", [0.2, 0.7])
def test_a_full_disk_loses_nothing(two_days: Day, tmp_path: Path, share: float) -> None:
    """The root's disk fills in an early and in a late stage; with room again the run goes on to the same bits."""
    world.write_inputs(tmp_path / "inputs")
    config = world.write_config(tmp_path, tmp_path / "inputs", tmp_path / "disk" / "root")
    kilobytes = int(subprocess.check_output(["du", "-sk", two_days.config.root]).split()[0])
    with small_disk(tmp_path / "disk", int(kilobytes / 2 * share)):
        full = submit("run_daily", tmp_path / "full.log", "--config", str(config), "--ds", str(DAY))
        assert full.ended() == 1, full.text[-3000:]
        assert "No space left on device" in full.text
        assert "Traceback" not in full.text.partition("WalkbitsError: ")[2]
        assert look(tmp_path / "disk" / "root") == "None"
        grow(tmp_path / "disk")
        again = submit("run_daily", tmp_path / "again.log", "--config", str(config), "--ds", str(DAY))
        assert again.ended() == 0, again.text[-3000:]
        run_id = look(tmp_path / "disk" / "root")
        assert reader.bits(tmp_path / "disk" / "root", run_id) == reader.bits(
            Path(two_days.config.root), run_id
        )


def test_a_full_shuffle_disk_publishes_nothing(tmp_path: Path) -> None:
    world.write_inputs(tmp_path / "inputs")
    config = world.write_config(tmp_path, tmp_path / "inputs", tmp_path / "root")
    with small_disk(tmp_path / "spill", 24):
        full = submit(
            "run_daily", tmp_path / "full.log", "--config", str(config), "--ds", str(DAY),
            settings={"spark.local.dir": str(tmp_path / "spill")},
        )  # fmt: skip
        assert full.ended() not in (0, None)
        assert "No space left on device" in full.text
        assert not (tmp_path / "root" / "publications").exists()


def without_sums(folder: Path) -> None:
    """As on an object store, which has no checksum files beside the data."""
    for crc in folder.rglob(".*.crc"):
        crc.unlink()


def forget(day: Day) -> None:
    day.spark._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()


def answer(day: Day, table: Table, run_id: str) -> tuple[int, str]:
    forget(day)
    return day.store.fingerprint(table, run_id)


@pytest.mark.parametrize("table", ["embeddings", "codes", "related", "nodes"])
def test_a_flipped_bit_of_data_is_never_other_rows(copied: Callable[..., Day], table: str) -> None:
    day = copied()
    folder, run_id = Path(day.store.path(TABLES[table])), day.live().run_id
    truth, chance, seen = answer(day, TABLES[table], run_id), random.Random(3), Counter[str]()
    without_sums(folder)
    files = sorted((folder / f"run_id={run_id}").rglob("*.parquet"))
    for _ in range(15):
        file = chance.choice(files)
        data = file.read_bytes()
        at = chance.randrange(len(data) * 8)
        bad = bytearray(data)
        bad[at // 8] ^= 1 << at % 8
        file.write_bytes(bad)
        try:
            outcome = "harmless" if answer(day, TABLES[table], run_id) == truth else "silent"
        except Exception:
            outcome = "error"
        seen[outcome] += 1
        file.write_bytes(data)
    assert answer(day, TABLES[table], run_id) == truth
    assert seen["silent"] == 0
    assert seen["error"] > 0  # the fault fired


def test_a_flipped_bit_of_the_log_is_found_by_verify(copied: Callable[..., Day]) -> None:
    """Delta's log has no checksum of its own: what its reader takes for other rows, verify does not. The control
    is the whole log, before and after."""
    day = copied()
    run_id = day.live().run_id
    log = sorted(Path(day.store.path(EMBEDDINGS), "_delta_log").glob("*.json"))[-1]
    data, truth = log.read_bytes(), answer(day, EMBEDDINGS, run_id)
    chance, seen = random.Random(5), Counter[str]()
    without_sums(log.parent)
    for crc in log.parent.glob("*.crc"):
        crc.unlink()
    daily.verify(day.spark, day.config)
    for _ in range(25):
        at = chance.randrange(len(data) * 8)
        bad = bytearray(data)
        bad[at // 8] ^= 1 << at % 8
        log.write_bytes(bad)
        try:
            same = answer(day, EMBEDDINGS, run_id) == truth
        except Exception:
            seen["error"] += 1
            continue
        if same:
            seen["harmless"] += 1
            continue
        seen["other rows"] += 1
        with pytest.raises(Exception, match="must re-read|whole|DELTA"):
            daily.verify(day.spark, day.config)
    log.write_bytes(data)
    forget(day)
    daily.verify(day.spark, day.config)
    assert seen["error"] + seen["other rows"] > 0


@pytest.mark.parametrize("how", ["cut", "empty", "gone"])
def test_a_damaged_data_file_ends_in_a_sentence_that_names_it(
    copied: Callable[..., Day], tmp_path: Path, how: str
) -> None:
    day = copied()
    folder, run_id = Path(day.store.path(EMBEDDINGS)), day.live().run_id
    file = max((folder / f"run_id={run_id}").rglob("*.parquet"), key=lambda one: one.stat().st_size)
    without_sums(folder)
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2 if how == "cut" else 0])
    config = Path(day.config.root).parent / "verify.yaml"
    config.write_text(world.CONFIG.format(root=day.config.root, inputs=tmp_path / "inputs"))
    job = submit("verify", tmp_path / "verify.log", "--config", str(config))
    assert job.ended() == 2, job.text[-3000:]
    assert file.name in job.text
    assert "see 'Repair' in docs/operations.md" in job.text
    shutil.rmtree(day.config.root)

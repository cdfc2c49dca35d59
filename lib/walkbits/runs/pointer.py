"""The publish pointer: one appended row makes a whole run visible.

Readers resolve the row with the highest `seq` of their channel. The append is a
compare-and-set: Delta records the (application, version) pair that was read and refuses
a concurrent winner; what it would skip silently is caught by reading the row back.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from walkbits.errors import LostRaceError, WalkbitsError
from walkbits.runs.log import Run
from walkbits.schemas import PUBLICATIONS
from walkbits.settings import config_hash
from walkbits.tables.store import Store, Written, utc_now


@dataclass(frozen=True)
class Pointer:
    """The newest publication of a channel."""

    seq: int
    ds: date
    run_id: str
    prev_run_id: str | None
    inputs_fingerprint: str
    model_version: str


def read_pointer(store: Store, channel: str) -> Pointer | None:
    """The channel's newest publication, None before the first."""
    return _newest(store.read(PUBLICATIONS).where(F.col("channel") == channel))


def published_before(store: Store, channel: str, run_id: str) -> Pointer | None:
    """The newest publication of a run in a channel, None when it was never shown there."""
    return _newest(
        store.read(PUBLICATIONS).where((F.col("channel") == channel) & (F.col("run_id") == run_id))
    )


def _newest(publications: DataFrame) -> Pointer | None:
    names = [field.name for field in fields(Pointer)]
    row = publications.orderBy(F.desc("seq")).select(*names).first()
    return None if row is None else Pointer(*row)


def check_forward(pointer: Pointer | None, run: Run, channel: str, allow_rollback: bool) -> None:
    """Live moves forward only.

    Raises:
        LostRaceError: something newer is published.
    """
    if pointer is not None and run.ds < pointer.ds and not allow_rollback:
        raise LostRaceError(
            f"channel '{channel}': ds must be >= the published {pointer.ds}, got {run.ds}; "
            f"publish a backfill with --channel ds={run.ds}, or pass --allow-rollback"
        )


def flip(
    store: Store,
    channel: str,
    run: Run,
    expected: Pointer | None,
    model_version: str,
    outputs: list[Written],
    allow_rollback: bool = False,
) -> int:
    """Append the pointer row; the run is visible from then on.

    Args:
        expected: The pointer as read when the publishing began; it must still be there.
        outputs: The published tables as logged by their stages.

    Returns:
        The publication's seq.

    Raises:
        LostRaceError: another run published in between, or something newer is live.
    """
    store.ensure(PUBLICATIONS)
    with _local_lock(store.root):
        current = read_pointer(store, channel)
        if current != expected:
            raise _lost(channel, run, current)
        check_forward(current, run, channel, allow_rollback)
        seq = (current.seq if current else 0) + 1
        row = {
            "channel": channel,
            "seq": seq,
            "ds": run.ds,
            "run_id": run.run_id,
            "prev_run_id": current.run_id if current else None,
            "model_version": model_version,
            "inputs_fingerprint": run.inputs_fingerprint,
            "rows": sum(output.rows for output in outputs),
            "sha": config_hash(*sorted(f"{o.output}={o.fingerprint}" for o in outputs)),
            "published_at": utc_now(),
        }
        try:
            store.append(PUBLICATIONS, [row], txnAppId=f"publish/{channel}", txnVersion=seq)
        except PySparkException as error:
            if "DELTA_CONCURRENT" not in str(error):
                raise
            raise _lost(channel, run, read_pointer(store, channel)) from error
        found = read_pointer(store, channel)
    if found is None or found.run_id != run.run_id or found.seq != seq:
        raise _lost(channel, run, found)
    return seq


def _lost(channel: str, run: Run, winner: Pointer | None) -> LostRaceError:
    return LostRaceError(
        f"channel '{channel}': the pointer must not move while {run.run_id} publishes, got "
        f"{winner.run_id if winner else 'none'} published meanwhile; its run stands, run again to follow it"
    )


@contextmanager
def _local_lock(root: str) -> Iterator[None]:
    """One flip at a time on a local disk, where Delta's own commit is not safe between processes."""
    if "://" in root and not root.startswith("file://"):
        yield
        return
    try:
        with (Path(root.removeprefix("file://")) / ".publish.lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise WalkbitsError(
            f"root must be writable for the publish lock, got '{root}' ({error.strerror})"
        ) from error

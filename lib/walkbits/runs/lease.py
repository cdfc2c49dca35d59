"""One driver per run: a lease that it holds from its first stage to the publication.

Where all drivers share a disk it is a lock that the process holds: a killed driver's is released at once, a
stopped one's is not. Elsewhere it is a row that the driver renews; a lease that nobody has renewed for
`TTL` is free. Either way it has a number, the fence, that rises from holder to holder: what an earlier
holder would replace when it wakes again, `tables.commits` refuses.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from pyspark.errors import PySparkException
from pyspark.sql import functions as F

from walkbits.arrays.places import unique_name
from walkbits.errors import LostRaceError
from walkbits.schemas import LEASES
from walkbits.tables.commits import CONFLICT
from walkbits.tables.locks import Busy, locked
from walkbits.tables.store import Store, Written
from walkbits.tables.tables import utc_now

LOG = logging.getLogger("walkbits")

TTL: Final = timedelta(minutes=10)
"""Longer than the clocks of two drivers differ, and than one stands still."""
_RENEW_SECONDS: Final = 60.0
_BEATING: Final = threading.Lock()
"""The thread that renews and the one that asks are one holder, and take turns."""


@contextmanager
def leased(store: Store, run_id: str, ttl: timedelta = TTL) -> Iterator[None]:
    """Hold a run's lease, and number this driver's commits by its fence.

    Args:
        ttl: Age from which a lease that is a row is free.

    Raises:
        LostRaceError: another driver holds it.
    """
    file = store.commits.lock_file(run_id)
    if file is None:
        with _renewed(store, run_id, ttl) as fence:
            store.commits.fence(run_id, fence)
            yield
        return
    try:
        with locked(file) as fence:
            store.commits.fence(run_id, fence)
            yield
    except Busy as error:
        raise _held(run_id, str(error)) from error


def check_held(store: Store, run_id: str) -> None:
    """Renew the lease at once, where it is a row; a lock that the process holds cannot be lost.

    Raises:
        LostRaceError: another driver has taken it over.
    """
    if store.commits.lock_file(run_id) is None:
        _renew(store, run_id, store.commits.fence_of(run_id))


def seal(store: Store, run_id: str, outputs: Sequence[Written]) -> None:
    """Where the lease is a row, take its last number: no earlier holder can replace the outputs.

    It costs a commit a table. A lock needs none of that: nobody else was the driver.
    """
    if store.commits.lock_file(run_id) is None:
        store.seal(outputs, run_id)


@dataclass(frozen=True)
class _Beat:
    """The newest row of a lease."""

    seq: int = 0
    fence: int = 0
    holder: str = ""
    fresh: bool = False


@contextmanager
def _renewed(store: Store, run_id: str, ttl: timedelta) -> Iterator[int]:
    before = _newest(store, run_id, ttl)
    if before.fresh:
        raise _held(run_id, before.holder)
    fence = before.fence + 1
    _append(store, run_id, before, fence)
    over = threading.Event()

    def renew() -> None:
        while not over.wait(_RENEW_SECONDS):
            try:
                _renew(store, run_id, fence)
            except LostRaceError as error:
                LOG.error("%s", error)
                return
            except Exception as error:  # storage may answer again before the lease has run out
                LOG.warning("lease=%s state=not_renewed error=%s", run_id, str(error).partition("\n")[0])

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield fence
    finally:
        over.set()
        thread.join()
        _renew(store, run_id, fence, released=True)


def _renew(store: Store, run_id: str, fence: int, released: bool = False) -> None:
    with _BEATING:
        _append(store, run_id, _newest(store, run_id), fence, released)


def _newest(store: Store, run_id: str, ttl: timedelta = TTL) -> _Beat:
    rows = store.read(LEASES, run_id=run_id).withColumn("micros", F.unix_micros("recorded_at"))
    row = rows.orderBy(F.desc("seq")).first()
    if row is None:
        return _Beat()
    age = timedelta(microseconds=utc_now().timestamp() * 1e6 - row["micros"])
    return _Beat(row["seq"], row["fence"], row["holder"], not row["released"] and age < ttl)


def _append(store: Store, run_id: str, before: _Beat, fence: int, released: bool = False) -> None:
    """Append the next row by compare-and-set, unless somebody has taken the lease over."""
    if before.fence > fence:
        raise _held(run_id, before.holder)
    row = {
        "run_id": run_id,
        "seq": before.seq + 1,
        "fence": fence,
        "holder": f"process {os.getpid()} on {socket.gethostname()} ({unique_name()[:8]})",
        "released": released,
        "recorded_at": utc_now(),
    }
    try:
        store.append(LEASES, [row], txnAppId=f"lease/{run_id}", txnVersion=before.seq + 1)
    except PySparkException as error:
        if CONFLICT not in str(error):
            raise
    found = store.read(LEASES, run_id=run_id, seq=before.seq + 1).first()
    if found is None or found["holder"] != row["holder"]:
        raise _held(run_id, "none" if found is None else found["holder"])


def _held(run_id: str, holder: str) -> LostRaceError:
    return LostRaceError(
        f"run {run_id}: one driver at a time may work on it, got {holder}; wait until it ends, or end it: "
        "the run goes on where it stands"
    )

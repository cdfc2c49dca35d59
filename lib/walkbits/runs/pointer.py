"""The publish pointer: one appended row makes a whole run visible.

Readers resolve the row with the highest `seq` of their channel. The append is a
compare-and-set: Delta records the (application, version) pair that was read and refuses
a concurrent winner; what it would skip silently is caught by reading the row back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import date

from pyspark.errors import PySparkException

from walkbits.errors import LostRaceError
from walkbits.runs.log import Run
from walkbits.schemas import PUBLICATIONS
from walkbits.settings import config_hash
from walkbits.tables.commits import CONFLICT
from walkbits.tables.store import Store, Written
from walkbits.tables.tables import utc_now


@dataclass(frozen=True)
class Pointer:
    """The newest publication of a channel.

    Attributes:
        shown: Every run that the channel has shown, this one too.
    """

    seq: int
    ds: date
    run_id: str
    prev_run_id: str | None
    inputs_fingerprint: str
    model_version: str
    shown: Mapping[str, Pointer] = field(default_factory=dict, compare=False, repr=False)


def read_pointer(store: Store, channel: str) -> Pointer | None:
    """The channel's newest publication, None before the first."""
    names = [one.name for one in fields(Pointer) if one.compare]
    rows = store.collect(PUBLICATIONS, channel=channel)
    shown: dict[str, Pointer] = {}
    newest = None
    for newest in sorted((Pointer(*(row[name] for name in names)) for row in rows), key=lambda one: one.seq):
        shown[newest.run_id] = newest
    return None if newest is None else replace(newest, shown=shown)


def check_forward(pointer: Pointer | None, run: Run, channel: str, allow_rollback: bool) -> None:
    """Live moves forward only, and what was withdrawn stays so.

    Raises:
        LostRaceError: something newer is published, or the channel has shown the run and then another.
    """
    if pointer is None or allow_rollback or pointer.run_id == run.run_id:
        return
    if run.ds < pointer.ds:
        raise LostRaceError(
            f"channel '{channel}': ds must be >= the published {pointer.ds}, got {run.ds}; "
            f"publish a backfill with --channel ds={run.ds}, or pass --allow-rollback"
        )
    if run.run_id in pointer.shown:
        raise LostRaceError(
            f"channel '{channel}': a run that was withdrawn must not come back by itself, got {run.run_id} "
            f"while {pointer.run_id} is shown instead; start over with --new-attempt, or pass "
            "--allow-rollback"
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
    with store.commits.publishing():
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
            "sha": published_sha(outputs),
            "published_at": utc_now(),
        }
        try:
            store.append(PUBLICATIONS, [row], txnAppId=f"publish/{channel}", txnVersion=seq)
        except PySparkException as error:
            if CONFLICT not in str(error):
                raise
            raise _lost(channel, run, read_pointer(store, channel)) from error
        found = read_pointer(store, channel)
    if found is None or found.run_id != run.run_id or found.seq != seq:
        raise _lost(channel, run, found)
    return seq


def published_sha(outputs: list[Written]) -> str:
    """sha256 over the fingerprints of what becomes visible together."""
    return config_hash(*sorted(f"{o.output}={o.fingerprint}" for o in outputs))


def _lost(channel: str, run: Run, winner: Pointer | None) -> LostRaceError:
    return LostRaceError(
        f"channel '{channel}': the pointer must not move while {run.run_id} publishes, got "
        f"{winner.run_id if winner else 'none'} published meanwhile; its run stands, run again to follow it"
    )

"""Step `publish_run`: make an audited run visible in one commit, or an earlier one again."""

from __future__ import annotations

import logging
import time

from walkbits.config import Config
from walkbits.errors import AuditError, InputError
from walkbits.faults import hit
from walkbits.models.card import read_card
from walkbits.runs.audit import changed
from walkbits.runs.lease import check_held, leased, seal
from walkbits.runs.log import find_run, log_stage, logged_stages, outputs_of, record_state
from walkbits.runs.pointer import check_forward, flip, read_pointer
from walkbits.runs.reuse import MODEL
from walkbits.runs.stage import StageRun
from walkbits.schemas import PUBLICATIONS, PUBLISHED
from walkbits.stages.audit_run import audit_committed, published_outputs
from walkbits.tables.store import Store, Written

LOG = logging.getLogger("walkbits")

NAME = "publish_run"
PREVIOUS = "previous"


def publish(context: StageRun, allow_rollback: bool = False) -> bool:
    """Audit and publish the run in the config's channel.

    Returns:
        False when the channel already points at this run.

    Raises:
        InputError: a stage has not finished.
        AuditError: a rule is broken; the run is marked failed.
        LostRaceError: another run published meanwhile, or something newer is live.
    """
    with context.leased():
        return _publish(context, allow_rollback)


def _publish(context: StageRun, allow_rollback: bool) -> bool:
    store, run, channel = context.store, context.run, context.config.channel
    began = time.monotonic()
    pointer = read_pointer(store, channel)
    if pointer is not None and pointer.run_id == run.run_id:
        check_stands(context)
        LOG.info("stage=%s run=%s state=kept channel=%s seq=%d", NAME, run.run_id, channel, pointer.seq)
        return False
    check_forward(pointer, run, channel, allow_rollback)
    published = published_outputs(context)
    seal(store, run.run_id, published)  # before they are judged: from now on they stay as they are
    audit_committed(context, pointer, published)
    version = read_card(context.artifacts(MODEL)).model_version
    check_held(store, run.run_id)
    hit("publish_run.audited")
    seq = flip(store, channel, run, pointer, version, published, allow_rollback)
    hit("publish_run.flipped")
    record_state(store, run, context.config, "published")
    rows, seconds = sum(o.rows for o in published), time.monotonic() - began
    log_stage(store, run.run_id, NAME, version, [Written(PUBLICATIONS.name, 1, version, 0, None)], seconds)
    LOG.info(
        "stage=%s run=%s state=done channel=%s seq=%d rows=%d seconds=%.1f",
        NAME, run.run_id, channel, seq, rows, seconds,
    )  # fmt: skip
    hit("publish_run.logged")
    return True


def check_stands(context: StageRun) -> None:
    """Refuse to call a published run fine that no longer re-reads as it was logged.

    Raises:
        AuditError: it does not.
    """
    outputs = outputs_of(logged_stages(context.store, context.run_id), PUBLISHED)
    broken = [*changed(context.store, context.run_id, outputs)]
    if broken:
        raise AuditError(
            f"run {context.run_id} is published and damaged: {'; '.join(broken)}; see 'Repair' in "
            "docs/operations.md"
        )


def roll_back(store: Store, config: Config, run_id: str = PREVIOUS) -> int:
    """Point the channel at a run it showed before; its tables must still be there, unchanged.

    Args:
        run_id: `previous` is the run that was visible before the present one.

    Returns:
        The new publication's seq.

    Raises:
        InputError: the channel never showed that run, or shows it now.
        AuditError: the run's tables are gone or damaged.
        LostRaceError: a driver works on the run, or it is being collected.
    """
    channel = config.channel
    pointer = read_pointer(store, channel)
    wanted = run_id if run_id != PREVIOUS else pointer.prev_run_id if pointer else None
    target = None if wanted is None or pointer is None else pointer.shown.get(wanted)
    if pointer is None or target is None or target.run_id == pointer.run_id:
        raise InputError(
            f"rollback: --run-id must be an earlier publication of channel '{channel}', got "
            f"{wanted or 'none'} while {pointer.run_id if pointer else 'nothing'} is shown; "
            "`python -m walkbits.tools.list_runs` lists them"
        )
    run = find_run(store, target.run_id)
    with leased(store, run.run_id):  # not while it is collected
        outputs = outputs_of(logged_stages(store, run.run_id), PUBLISHED)
        broken = [*changed(store, run.run_id, outputs)]
        if broken:
            raise AuditError(
                f"run {run.run_id}: {'; '.join(broken)}; the channel still shows {pointer.run_id}"
            )
        seq = flip(store, channel, run, pointer, target.model_version, outputs, allow_rollback=True)
        record_state(store, run, config, "published")
    LOG.info(
        "stage=rollback_run run=%s state=done channel=%s seq=%d from=%s",
        run.run_id, channel, seq, pointer.run_id,
    )  # fmt: skip
    return seq

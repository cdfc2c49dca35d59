"""Stage `publish_run`: audit what was committed, then make it visible in one commit."""

from __future__ import annotations

import logging
import time

from walkbits.errors import AuditError, InputError
from walkbits.models.card import load_model
from walkbits.pipeline import Context
from walkbits.schemas import PUBLICATIONS, PUBLISHED
from walkbits.stages.train_model import MODEL
from walkbits.storage.audit import audit
from walkbits.storage.publish import check_forward, flip, read_pointer
from walkbits.storage.runs import log_stage, logged_stages, record_state
from walkbits.storage.tables import Written

LOG = logging.getLogger("walkbits")

NAME = "publish_run"


def publish(context: Context, allow_rollback: bool = False) -> bool:
    """Audit and publish the run in the config's channel.

    Returns:
        False when the channel already points at this run.

    Raises:
        InputError: a stage has not finished.
        AuditError: a rule is broken; the run is marked failed.
        LostRaceError: another run published meanwhile, or something newer is live.
    """
    store, run, channel = context.store, context.run, context.config.channel
    began = time.monotonic()
    pointer = read_pointer(store, channel)
    if pointer is not None and pointer.run_id == run.run_id:
        LOG.info("stage=%s run=%s state=kept channel=%s seq=%d", NAME, run.run_id, channel, pointer.seq)
        return False
    check_forward(pointer, run, channel, allow_rollback)
    outputs = [output for logged in logged_stages(store, run.run_id).values() for output in logged.outputs]
    published = [o for o in outputs if o.output in {table.name for table in PUBLISHED}]
    missing = {table.name for table in PUBLISHED} - {o.output for o in published}
    if missing:
        raise InputError(
            f"{NAME}: tables {sorted(missing)} must be finished for run {run.run_id}; "
            "run the stages before it"
        )
    try:
        audit(store, context.config, run.run_id, published, pointer.run_id if pointer else None)
    except AuditError as error:
        record_state(store, run, context.config, "failed", str(error))
        raise
    record_state(store, run, context.config, "audited")
    version = load_model(context.artifacts(MODEL)).card.model_version
    seq = flip(store, channel, run, pointer, version, published, allow_rollback)
    record_state(store, run, context.config, "published")
    rows, seconds = sum(o.rows for o in published), time.monotonic() - began
    log_stage(store, run.run_id, NAME, version, [Written(PUBLICATIONS.name, 1, version, 0, None)], seconds)
    LOG.info(
        "stage=%s run=%s state=done channel=%s seq=%d rows=%d seconds=%.1f",
        NAME, run.run_id, channel, seq, rows, seconds,
    )  # fmt: skip
    return True

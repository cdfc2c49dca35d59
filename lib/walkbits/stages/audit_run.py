"""Step `audit_run`: judge what a run committed, and write down the figures it was judged by."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

from walkbits.errors import AuditError, InputError
from walkbits.models.card import read_card
from walkbits.runs.audit import audit, changed
from walkbits.runs.log import log_stage, logged_stages, outputs_of, record_state
from walkbits.runs.pointer import Pointer
from walkbits.runs.reuse import MODEL
from walkbits.runs.stage import StageRun, check_inputs
from walkbits.schemas import ALWAYS_PUBLISHED, PUBLISHED
from walkbits.settings import config_hash
from walkbits.stages.build_neighborhoods import GRAPH
from walkbits.tables.commits import parse_output
from walkbits.tables.store import Written

LOG = logging.getLogger("walkbits")

NAME = "audit_run"


def published_outputs(context: StageRun) -> list[Written]:
    """What the run's stages logged of the published tables.

    Raises:
        InputError: a stage has not finished.
    """
    done = logged_stages(context.store, context.run_id)
    names = {table.name for table in ALWAYS_PUBLISHED}
    outputs = outputs_of(done, PUBLISHED)
    missing = names - {parse_output(o.output)[0] for o in outputs}
    if missing:
        raise InputError(
            f"{NAME}: tables {sorted(missing)} must be finished for run {context.run_id}; "
            "run the stages before it"
        )
    return outputs


def audit_committed(context: StageRun, pointer: Pointer | None, outputs: list[Written]) -> None:
    """Audit a finished run against what its channel shows; a verdict that still holds is kept.

    The verdict holds for these rules, these outputs and this published run; the tables are then
    only re-read and compared with the log.

    Args:
        outputs: As `published_outputs` has them.

    Raises:
        AuditError: a rule is broken; the run is marked failed.
    """
    store, run, config = context.store, context.run, context.config
    began = time.monotonic()
    done = logged_stages(store, run.run_id)
    published = {one.output for one in outputs}  # which the audit itself compares with the log
    read = {
        name: replace(
            done[name], outputs=tuple(one for one in done[name].outputs if one.output not in published)
        )
        for name in ("build_neighborhoods", "train_model")
    }
    check_inputs(context, NAME, read, (MODEL, GRAPH))
    card = read_card(context.artifacts(MODEL))
    key = config_hash(
        NAME, config.audit, config.index, config.seed, pointer.run_id if pointer else "", card.model_version,
        *sorted(f"{o.output}={o.fingerprint}" for o in outputs),
    )  # fmt: skip
    try:
        judged = NAME in done and done[NAME].stage_key == key
        # Tables that changed since are judged anew, so that the refusal names what is wrong with them.
        if judged and not [*changed(store, run.run_id, outputs)]:
            state = "kept"
        else:
            graph = context.artifacts(GRAPH)
            figures, broken = audit(store, config, run.run_id, outputs, card, pointer, graph)
            written = context.metrics({NAME: figures})
            state = "done"
            if broken:
                raise AuditError(f"run {run.run_id}: {'; '.join(broken)}; nothing was published")
    except AuditError as error:
        record_state(store, run, config, "failed", str(error))
        raise
    seconds = time.monotonic() - began
    if state == "done":
        record_state(store, run, config, "audited")
        log_stage(store, run.run_id, NAME, key, written, seconds)
    LOG.info("stage=%s run=%s state=%s seconds=%.1f", NAME, run.run_id, state, seconds)

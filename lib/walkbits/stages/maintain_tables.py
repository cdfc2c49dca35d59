"""Step `maintain_tables`: collect runs that nothing refers to, compact what is left."""

from __future__ import annotations

import logging
from contextlib import ExitStack

from walkbits.arrays.places import remove
from walkbits.config import Config, artifacts_of
from walkbits.errors import LostRaceError
from walkbits.faults import hit
from walkbits.runs import collect
from walkbits.runs.lease import leased
from walkbits.runs.log import find_run, record_states
from walkbits.tables.store import Store

LOG = logging.getLogger("walkbits")

NAME = "maintain_tables"


def maintain(store: Store, config: Config) -> list[str]:
    """Drop the partitions and artifacts of the runs that `config.maintenance` lets go.

    A run that a driver holds, or that a channel shows again meanwhile, is spared. A crash on the way leaves
    runs that the next pass takes again: they are marked first, and marked as collected last. Tables that
    lost runs, and the logs, are compacted and vacuumed; the others hold what they were given.

    Returns:
        The runs collected.
    """
    with ExitStack() as leases:
        run_ids = _marked(store, config, leases)
        hit("maintain_tables.marked")
        touched = collect.drop_runs(store, run_ids)
        hit("maintain_tables.dropped")
        for run_id in run_ids:
            remove(artifacts_of(config) / run_id)
            collect.remove_folder(store.spark, store.scratch(run_id))
        record_states(store, [find_run(store, run_id) for run_id in run_ids], config, "collected")
    hit("maintain_tables.collected")
    for table in (*collect.LOGS, *touched):
        if store.exists(table):
            collect.compact(store, table)
            LOG.info("stage=%s table=%s state=compacted", NAME, table.name)
    LOG.info("stage=%s state=done collected=%d %s", NAME, len(run_ids), " ".join(run_ids))
    return run_ids


def _marked(store: Store, config: Config, leases: ExitStack) -> list[str]:
    """The runs to collect, leased and in state `collecting`: from then on no channel shows them."""
    held = []
    for run_id in collect.collectable(store, config.maintenance):
        try:
            leases.enter_context(leased(store, run_id))
        except LostRaceError as error:
            LOG.info("stage=%s run=%s state=spared: %s", NAME, run_id, error)
        else:
            held.append(run_id)
    if not held:
        return []
    with store.commits.publishing():
        run_ids = sorted({*held} & {*collect.collectable(store, config.maintenance)})
        record_states(store, [find_run(store, run_id) for run_id in run_ids], config, "collecting")
    return run_ids

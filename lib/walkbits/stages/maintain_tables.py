"""Step `maintain_tables`: collect runs that nothing refers to, compact what is left."""

from __future__ import annotations

import logging

from walkbits.arrays.places import remove
from walkbits.config import Config
from walkbits.runs import collect
from walkbits.runs.log import find_run, record_state
from walkbits.runs.stage import artifacts_of
from walkbits.tables.store import Store

LOG = logging.getLogger("walkbits")

NAME = "maintain_tables"


def maintain(store: Store, config: Config) -> list[str]:
    """Drop the partitions and artifacts of the runs that `config.maintenance` lets go.

    A crash on the way leaves a run that the next pass takes again: its state changes last. Tables
    that lost runs, and the logs, are compacted and vacuumed; the others hold what they were given.

    Returns:
        The runs collected.
    """
    run_ids = collect.collectable(store, config.maintenance)
    touched = collect.drop_runs(store, run_ids)
    for run_id in run_ids:
        remove(artifacts_of(config) / run_id)
        collect.remove_folder(store.spark, store.scratch(run_id))
        record_state(store, find_run(store, run_id), config, "collected")
    for table in (*collect.LOGS, *touched):
        if store.exists(table):
            collect.compact(store, table)
            LOG.info("stage=%s table=%s state=compacted", NAME, table.name)
    LOG.info("stage=%s state=done collected=%d %s", NAME, len(run_ids), " ".join(run_ids))
    return run_ids

"""Step `verify`: whether what readers see is what was published."""

from __future__ import annotations

import logging
import time

from walkbits.config import Config
from walkbits.errors import AuditError, InputError
from walkbits.runs.log import find_run
from walkbits.runs.pointer import read_pointer
from walkbits.runs.stage import StageRun
from walkbits.runs.verify import verify_pointers, verify_run
from walkbits.tables.store import Store

LOG = logging.getLogger("walkbits")

NAME = "verify"


def verify_live(store: Store, config: Config) -> None:
    """Hold the channel's publication against its tables, its model and the logs; reads all, writes nothing.

    Raises:
        AuditError: something is damaged, lost or mixed; every finding in one message.
        InputError: the channel shows nothing.
    """
    began = time.monotonic()
    pointer = read_pointer(store, config.channel)
    broken = [*verify_pointers(store)]
    if pointer is None and not broken:
        raise InputError(
            f"channel '{config.channel}' must show a run to be verified, got none; publish one first"
        )
    if pointer is not None:
        context = StageRun(store, config, find_run(store, pointer.run_id))
        broken += verify_run(context, pointer)
    if broken:
        raise AuditError(
            f"channel '{config.channel}', run {pointer.run_id if pointer else 'none'}: {'; '.join(broken)}; "
            "see 'Repair' in docs/operations.md"
        )
    assert pointer is not None
    LOG.info(
        "stage=%s run=%s state=done channel=%s seq=%d seconds=%.1f",
        NAME, pointer.run_id, config.channel, pointer.seq, time.monotonic() - began,
    )  # fmt: skip

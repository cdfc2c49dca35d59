"""Verifies what a channel shows against everything stored about it: once a day, and after a repair."""

from __future__ import annotations

import json
from collections.abc import Iterator

from walkbits.config import Config
from walkbits.models.card import read_card
from walkbits.runs.audit import committed, derived, differing
from walkbits.runs.log import logged_stages, outputs_of
from walkbits.runs.pointer import Pointer, published_sha
from walkbits.runs.stage import StageRun
from walkbits.schemas import ALWAYS_PUBLISHED, PUBLICATIONS, PUBLISHED, RUNS
from walkbits.settings import Index
from walkbits.tables.commits import parse_output
from walkbits.tables.store import Store, Written


def verify_pointers(store: Store) -> Iterator[str]:
    """One sentence per thing that is wrong with the publications of all channels."""
    rows = store.collect(PUBLICATIONS, ("channel", "seq", "run_id", "prev_run_id"))
    channels: dict[str, list[tuple[int, str, str | None]]] = {}
    for row in sorted(rows, key=lambda row: (row["channel"], row["seq"])):
        channels.setdefault(row["channel"], []).append((row["seq"], row["run_id"], row["prev_run_id"]))
    for channel, shown in channels.items():
        numbers = [seq for seq, _, _ in shown]
        if numbers != [*range(1, len(numbers) + 1)]:
            yield f"publications of channel '{channel}' must be numbered 1, 2, 3, ..., got {numbers}"
        elif [None, *(run_id for _, run_id, _ in shown)][:-1] != [before for _, _, before in shown]:
            yield f"publications of channel '{channel}' must each name the one before, got others"
    # The newest commit of a log leaves no hole when it is lost.
    published = {row["run_id"] for row in store.collect(RUNS, ("run_id",), state="published")}
    lost = published - {row["run_id"] for row in rows}
    if lost:
        yield f"publications must name every run that was published, got none of {sorted(lost)}"


def verify_run(context: StageRun, pointer: Pointer) -> Iterator[str]:
    """One sentence per thing that is wrong with a published run; everything is read again.

    Args:
        pointer: The run's publication.
    """
    store, run_id = context.store, context.run_id
    outputs = outputs_of(logged_stages(store, run_id), PUBLISHED)
    missing = {table.name for table in ALWAYS_PUBLISHED} - {parse_output(one.output)[0] for one in outputs}
    if missing:
        yield f"stage_log must name the outputs of run {run_id}, got none in {sorted(missing)}"
        return
    yield from _publication(store, run_id, pointer, outputs)
    card = read_card(context.artifacts("model"))
    if card.model_version != pointer.model_version:
        yield f"the model must be the published {pointer.model_version}, got {card.model_version}"
    found = committed(store, run_id, outputs)
    broken = [*differing(found, outputs)]
    yield from broken
    if not broken:
        made_by = _settings_of(store, context.config, run_id)
        yield from derived(store, made_by, run_id, card.network, found)


def _publication(store: Store, run_id: str, pointer: Pointer, outputs: list[Written]) -> Iterator[str]:
    (row,) = store.collect(PUBLICATIONS, ("rows", "sha"), run_id=run_id, seq=pointer.seq)
    rows = sum(one.rows for one in outputs)
    if (row["rows"], row["sha"]) != (rows, published_sha(outputs)):
        yield (
            f"publication {pointer.seq} must have the rows and sha of the run's log, got {row['rows']} rows, "
            f"sha {row['sha'][:12]} for {rows}, {published_sha(outputs)[:12]}"
        )


def _settings_of(store: Store, config: Config, run_id: str) -> Config:
    """The configuration with what the run's own codes and buckets were made by."""
    rows = store.collect(RUNS, ("seq", "config"), run_id=run_id)
    if not rows:
        return config
    stored = json.loads(min(rows)["config"])
    return config.model_copy(update={"index": Index.model_validate(stored["index"]), "seed": stored["seed"]})

"""Runs: their ids, their states, and the log that lets a killed run go on."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import reduce
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Final

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from walkbits import __version__
from walkbits.config import Config, deciding, without_credentials
from walkbits.errors import ConfigError, EmptyInputError, InputError
from walkbits.schemas import RUN_METRICS, RUNS, STAGE_LOG, Table
from walkbits.settings import config_hash
from walkbits.tables.store import Store, Written
from walkbits.tables.tables import utc_now

PART = "/"
"""Between a stage and a part of it that a later attempt keeps, in the stage log."""
RUN_ID_PATTERN = re.compile(r"[0-9]{8}-[0-9a-f]{8}-a[0-9]{1,3}")
COLLECTED: Final = ("collecting", "collected")
"""States of a run whose rows are gone, or are going."""


@dataclass(frozen=True)
class Run:
    """One attempt to turn one day's inputs into tables."""

    ds: date
    inputs_fingerprint: str
    attempt: int

    @property
    def run_id(self) -> str:
        return f"{self.ds:%Y%m%d}-{self.inputs_fingerprint[:8]}-a{self.attempt}"


@dataclass(frozen=True)
class Logged:
    """A finished stage: its key, and what it wrote."""

    stage_key: str
    outputs: tuple[Written, ...]


def inputs_fingerprint(contents: Mapping[str, str], config: Config) -> str:
    """sha256 over the rows the run reads, the settings that decide its bits, and the code.

    Args:
        contents: Of every source, as `contents_of` gives them.
    """
    settings = str(sorted(deciding(config).items()))
    return config_hash(__version__, code_digest(), settings, str([*contents]), *contents.values())


@functools.cache
def code_digest() -> str:
    """sha256 of the package's modules, wherever it was imported from."""
    digest = hashlib.sha256()

    def walk(folder: Traversable, below: str) -> None:
        for entry in sorted(folder.iterdir(), key=lambda one: one.name):
            if entry.is_dir():
                walk(entry, f"{below}{entry.name}/")
            elif entry.name.endswith(".py"):
                digest.update(f"{below}{entry.name}\n".encode() + entry.read_bytes())

    walk(resources.files("walkbits"), "")
    return digest.hexdigest()


def contents_of(sources: Mapping[str, DataFrame]) -> dict[str, str]:
    """What identifies the rows of each source; one query reads them all.

    Content, not file names or times: a copied input gives the same run, and an old day
    read again after new days arrived does too.

    Args:
        sources: The selected rows of each config section, as ingest sees them.

    Raises:
        EmptyInputError: one of them has no rows.
    """
    parts = [
        frame.select(F.lit(name).alias("source"), F.xxhash64(*frame.columns).alias("digest"))
        for name, frame in sources.items()
    ]
    digest = F.col("digest")
    rows = (
        reduce(DataFrame.union, parts)
        .groupBy("source")
        .agg(F.count(F.lit(1)), F.bit_xor(digest), F.sum(digest.bitwiseAND(F.lit(0xFFFFFFFF))))
        .collect()
    )
    found = {row["source"]: str(tuple(row)[1:]) for row in rows}
    for name in sources:
        if name not in found:
            raise EmptyInputError(
                f"{name}: at least one row must be there for the day, got none; check the table and --ds"
            )
    return {name: found[name] for name in sources}


def newest_attempt(store: Store, ds: date, fingerprint: str) -> int:
    """Number of the newest attempt at these inputs, 0 when there is none."""
    return max(
        (row["attempt"] for row in store.collect(RUNS, ds=ds, inputs_fingerprint=fingerprint)), default=0
    )


def record_state(
    store: Store, run: Run, config: Config, state: str, detail: str | None = None, label: str | None = None
) -> None:
    """Append a state to the run's history; `label` names it for `find_run`."""
    record_states(store, [run], config, state, detail, label)


def record_states(
    store: Store, runs: Sequence[Run], config: Config, state: str, detail: str | None = None,
    label: str | None = None,
) -> None:  # fmt: skip
    """`record_state` of several runs in one commit; none for no run."""
    now, text = utc_now(), without_credentials(config.model_dump_json())
    rows = [
        {
            "run_id": run.run_id, "ds": run.ds, "attempt": run.attempt, "state": state, "detail": detail,
            "inputs_fingerprint": run.inputs_fingerprint, "label": label, "config": text, "recorded_at": now,
        }
        for run in runs
    ]  # fmt: skip
    if rows:
        store.append(RUNS, rows)


def is_labelled(store: Store, run: Run, label: str | None) -> bool:
    """Whether `find_run` by this label gives this run."""
    if label is None:
        return False
    rows = store.collect(RUNS, label=label)
    return bool(rows) and max(rows, key=_in_order)["run_id"] == run.run_id


def newest_state(store: Store, run_id: str) -> str:
    """The state a run entered last."""
    rows = store.collect(RUNS, run_id=run_id)
    return str(max(rows, key=_in_order)["state"]) if rows else "created"


def _in_order(row: Row) -> tuple[int, str]:
    """Rows of one commit by their runs."""
    return row["seq"], row["run_id"]


def find_run(store: Store, run_id: str | None, ds: date | None = None, label: str | None = None) -> Run:
    """An existing run: by id, by label, or the one that changed last (of a day, if given).

    A run that was collected is found by its id only.

    Raises:
        InputError: the id is malformed, or there is no such run.
    """
    where: dict[str, object] = {} if ds is None else {"ds": ds}
    if run_id is not None:
        if not RUN_ID_PATTERN.fullmatch(run_id):
            raise InputError(
                f"--run-id must look like 20260131-0a1b2c3d-a1, got {run_id!r}; see the runs table"
            )
        where["run_id"] = run_id
    columns = ("seq", "run_id", "ds", "inputs_fingerprint", "attempt", "state", "label")
    rows = sorted(store.collect(RUNS, columns, **where))
    states = {row["run_id"]: row["state"] for row in rows}
    found = [
        row
        for row in rows
        if (label is None or row["label"] == label)
        and (run_id is not None or states[row["run_id"]] not in COLLECTED)
    ]
    if not found:
        wanted = (
            " ".join([run_id or "", f"of {ds}" if ds else "", f"labelled '{label}'" if label else ""]).strip()
            or "at all"
        )
        raise InputError(
            f"a run must exist under '{store.root}', got none {wanted}; "
            "start one with `spark-submit jobs/ingest_graph.py` or `jobs/run_daily.py`"
        )
    return Run(found[-1]["ds"], found[-1]["inputs_fingerprint"], found[-1]["attempt"])


def check_settings(store: Store, run: Run, config: Config) -> None:
    """Refuse to go on with a run under other settings than it was opened with.

    Raises:
        ConfigError: names the keys that differ.
    """
    opened = opened_settings(store, run)
    if opened is None:
        return
    wrong = [
        f"{section}.{key}" if isinstance(given, dict) else section
        for section, given in deciding(config).items()
        for key in (given if isinstance(given, dict) else ("",))
        if _at(opened, section, key) != (given[key] if isinstance(given, dict) else given)
    ]
    if wrong:
        raise ConfigError(
            f"run {run.run_id} must go on with the settings that opened it, got others in {sorted(wrong)}; "
            "use the same --config, --model and --set in every job of a run, or open a new run"
        )


def opened_settings(store: Store, run: Run) -> dict[str, Any] | None:
    """The config that a run was opened with, as JSON values; None of a run without a state."""
    rows = store.collect(RUNS, run_id=run.run_id)
    return json.loads(min(rows, key=_in_order)["config"]) if rows else None


def _at(settings: Mapping[str, Any], section: str, key: str) -> Any:
    found = settings.get(section)
    return found.get(key) if key and isinstance(found, dict) else found


def log_stage(
    store: Store, run_id: str, stage: str, stage_key: str, outputs: list[Written], seconds: float
) -> None:
    """Record a finished stage in one commit, so it is finished for all its outputs or none."""
    now = utc_now()
    store.append(
        STAGE_LOG,
        [
            {
                "run_id": run_id,
                "stage": stage,
                "stage_key": stage_key,
                "output": output.output,
                "rows": output.rows,
                "fingerprint": output.fingerprint,
                "bytes": output.bytes,
                "seconds": seconds,
                "delta_version": output.delta_version,
                "recorded_at": now,
            }
            for output in outputs
        ],
    )


def logged_stages(store: Store, run_id: str) -> dict[str, Logged]:
    """The newest record of each finished stage of a run."""
    return {name: record for name, record in read_log(store, run_id).items() if PART not in name}


def outputs_of(logged: Mapping[str, Logged], tables: Sequence[Table]) -> list[Written]:
    """What finished stages wrote to some tables."""
    names = {table.name for table in tables}
    return [one for stage in logged.values() for one in stage.outputs if one.output.split("/")[0] in names]


def logged_parts(log: dict[str, Logged], stage: str) -> dict[str, Logged]:
    """Of a run's log the finished parts of a stage, finished or not."""
    prefix = stage + PART
    return {name.removeprefix(prefix): one for name, one in log.items() if name.startswith(prefix)}


def read_log(store: Store, run_id: str) -> dict[str, Logged]:
    """The newest record of each finished stage, and part of a stage, of a run; in order of their names."""
    rows = store.collect(STAGE_LOG, run_id=run_id)
    newest: dict[str, int] = {}
    for row in rows:
        newest[row["stage"]] = max(row["seq"], newest.get(row["stage"], 0))
    stages: dict[str, Logged] = {}
    for row in sorted(rows, key=lambda row: (row["stage"], row["output"])):
        if row["seq"] == newest[row["stage"]]:
            written = Written(
                row["output"], row["rows"], row["fingerprint"], row["bytes"], row["delta_version"]
            )
            earlier = stages.get(row["stage"], Logged(row["stage_key"], ()))
            stages[row["stage"]] = Logged(row["stage_key"], (*earlier.outputs, written))
    return stages


def metric(store: Store, run_id: str, stage: str, name: str) -> float | None:
    """A figure of a run, None when it was not measured."""
    rows = store.collect(RUN_METRICS, ("value",), run_id=run_id, stage=stage, metric=name)
    return float(rows[0]["value"]) if rows else None

"""Stages and how they run: once, in order, resumable, one line of log each."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from walkbits.arrays.mapped import folder_digest
from walkbits.arrays.places import Place, place_of, remove, unique_name
from walkbits.config import Config, artifacts_of
from walkbits.errors import InputError, LostRaceError
from walkbits.faults import hit
from walkbits.forecast import Forecast
from walkbits.runs.collect import remove_folder
from walkbits.runs.cost import Figures, watched
from walkbits.runs.lease import leased
from walkbits.runs.log import (
    PART,
    Logged,
    Run,
    log_stage,
    logged_parts,
    logged_stages,
    read_log,
    record_state,
)
from walkbits.runs.room import check_room
from walkbits.schemas import RUN_METRICS, TABLES
from walkbits.settings import Section, config_hash
from walkbits.spark_errors import recognised
from walkbits.tables.commits import parse_output
from walkbits.tables.fingerprints import fingerprints_of
from walkbits.tables.store import Store, Written
from walkbits.tables.tables import utc_now

LOG = logging.getLogger("walkbits")

_ARTIFACT = "artifacts/"
_SCRATCH = "scratch"


@dataclass(frozen=True)
class StageRun:
    """What a stage works with: the store, the settings and the run."""

    store: Store
    config: Config
    run: Run
    _measured: Figures = field(default_factory=dict, compare=False)
    _held: list[str] = field(default_factory=list, compare=False)
    _verified: set[Written] = field(default_factory=set, compare=False)

    @contextmanager
    def leased(self) -> Iterator[None]:
        """Be the run's only driver; within the block again at will.

        Raises:
            LostRaceError: another driver is.
        """
        if self._held:
            yield
            return
        with leased(self.store, self.run_id):
            self._held.append(self.run_id)
            hit("lease.held")
            remove(self.artifacts(_SCRATCH))  # what killed drivers left
            remove_folder(self.spark, self.store.scratch(self.run_id))
            try:
                yield
            finally:
                self._held.clear()

    @property
    def spark(self) -> SparkSession:
        return self.store.spark

    @property
    def run_id(self) -> str:
        return self.run.run_id

    def artifacts(self, name: str, run_id: str | None = None) -> Place:
        """Folder of one kind of plain files of this run, or of another; see `config.Config.artifacts`."""
        return artifacts_of(self.config) / (run_id or self.run_id) / name

    @contextmanager
    def scratch(self, name: str) -> Iterator[Place]:
        """A new `artifacts` folder of this driver alone, removed in the end."""
        own = self.artifacts(_SCRATCH) / unique_name()
        try:
            yield own / name
        finally:
            with suppress(OSError):  # the run's next driver removes it
                remove(own)

    @contextmanager
    def spark_scratch(self) -> Iterator[str]:
        """A new folder of this driver alone for what Spark itself writes, removed in the end.

        It is stored beside the tables: Spark and pyarrow do not know the same URIs.
        """
        folder = f"{self.store.scratch(self.run_id)}/{unique_name()}"
        try:
            yield folder
        finally:
            remove_folder(self.spark, folder)
            with suppress(Py4JError):  # another driver of the run works there
                remove_folder(self.spark, self.store.scratch(self.run_id), recursive=False)

    def artifact_written(self, name: str, rows: int) -> Written:
        """Describe a finished artifact folder for the stage log."""
        size, digest = folder_digest(self.artifacts(name))
        return Written(f"{_ARTIFACT}{name}", rows, digest, size, None)

    def measure(self, figures: Figures) -> None:
        """Keep a stage's figures, name -> (value, unit), until `execute` commits them with its cost."""
        self._measured.update(figures)

    def metrics(self, figures: dict[str, Figures]) -> list[Written]:
        """Commit figures, stage -> name -> (value, unit), in the place of those stages' earlier ones.

        The same stages in every commit: what one commit holds, another replaces as a whole.
        """
        now = utc_now()
        rows = [
            {
                "stage": stage, "metric": name, "value": float(value), "unit": unit, "recorded_at": now,
            }
            for stage, of_stage in figures.items()
            for name, (value, unit) in of_stage.items()
        ]  # fmt: skip
        if rows:
            self.store.write_local(RUN_METRICS, rows, self.run_id, "stage", tuple(figures))
        return [
            Written(f"{RUN_METRICS.name}/stage={stage}", len(of_stage), "", 0, None)
            for stage, of_stage in figures.items()
            if of_stage
        ]


@dataclass(frozen=True)
class Stage:
    """A step of the pipeline.

    Attributes:
        after: Stages whose outputs it reads.
        settings: The config sections that decide its output, beside the seed.
        run: Does the work; returns what it wrote.
        artifacts: Artifact folders of stages before it that it reads.
        needs: What it takes of this machine, where the run's graph says so.
        explain: Returns the plan as text; reads little and writes nothing.
    """

    name: str
    after: tuple[str, ...]
    settings: Callable[[Config], Iterable[Section | str]]
    run: Callable[[StageRun], list[Written]]
    explain: Callable[[StageRun], str] | None = None
    artifacts: Callable[[Config], tuple[str, ...]] = lambda _config: ()
    needs: Callable[[StageRun], Forecast | None] = lambda _context: None


def execute(context: StageRun, stage: Stage, again: bool = False) -> bool:
    """Run a stage unless its logged outputs still stand.

    Args:
        again: Run it even then.

    Returns:
        Whether work was done.

    Raises:
        InputError: a stage before it has not finished, or its outputs changed since; or the run is
            published and its outputs would have to be written again.
        LostRaceError: another driver works on the run.
        WalkbitsError: the machine has no room for it.
    """
    with context.leased():
        return _execute(context, stage, again)


def _execute(context: StageRun, stage: Stage, again: bool) -> bool:
    done = logged_stages(context.store, context.run_id)
    key = stage_key(stage, context.config, context.run, done)
    earlier = done.get(stage.name)
    standing = earlier is not None and earlier.stage_key == key and not again
    if earlier is not None and standing and _stands(context, earlier):
        _report(context, stage.name, "kept", earlier.outputs, 0.0)
        return False
    if context.store.is_published(context.run_id):
        raise InputError(
            f"{stage.name}: a published run must not be written again, got {context.run_id} with other "
            "settings or damaged outputs; start a new run with jobs/run_daily.py "
            "(--new-attempt for the same inputs)"
        )
    check_inputs(
        context, stage.name, {name: done[name] for name in stage.after}, stage.artifacts(context.config)
    )
    if (needs := stage.needs(context)) is not None:
        check_room(needs, place_of(context.store.root), artifacts_of(context.config))
    LOG.info("stage=%s run=%s state=started", stage.name, context.run_id)
    group = f"stage={stage.name} run={context.run_id}"
    context.spark.sparkContext.setJobGroup(group, f"walkbits {stage.name} {context.run_id}")
    context._measured.clear()
    began = time.monotonic()
    try:
        with watched(context.spark, group) as spent:
            hit(f"{stage.name}.started")
            outputs = stage.run(context)
            hit(f"{stage.name}.written")
    except LostRaceError:  # the run is another driver's: its state is not for this one to write
        raise
    except Exception as error:
        message = _first_line(recognised(error) or error)
        record_state(context.store, context.run, context.config, "failed", f"{stage.name}: {message}")
        raise
    seconds = time.monotonic() - began
    spent["seconds"] = (seconds, "seconds")
    # Both always, so that every attempt's figures take the place of the last one's.
    figures = context.metrics({stage.name: dict(context._measured), f"{stage.name}.cost": spent})
    hit(f"{stage.name}.measured")
    log_stage(context.store, context.run_id, stage.name, key, [*outputs, *figures], seconds)
    hit(f"{stage.name}.logged")
    context._verified.update(outputs)
    _report(context, stage.name, "done", outputs, seconds)
    return True


def check_inputs(
    context: StageRun, reader: str, logged: Mapping[str, Logged], artifacts: Sequence[str] = ()
) -> None:
    """Refuse to work on what is no longer as the stages before logged it.

    A table is as it was logged when no commit has touched the partition since; only where one has, as after
    a compaction, are its rows read for it. An artifact's files are read once per driver.

    Args:
        reader: Who reads, for the message.
        logged: Finished stages, by name.
        artifacts: Of their artifact folders those that are read.

    Raises:
        InputError: an output changed; names the stage to run again.
    """
    wrong: list[tuple[str, str]] = []
    doubtful: list[tuple[str, Written]] = []
    for stage, record in logged.items():
        for output in filter(_decides, record.outputs):
            name = output.output.removeprefix(_ARTIFACT)
            if name == output.output:
                if not context.store.untouched(output, context.run_id):
                    doubtful.append((stage, output))
            elif name in artifacts and output not in context._verified:
                if folder_digest(context.artifacts(name))[1] != output.fingerprint:
                    wrong.append((stage, output.output))
                context._verified.add(output)
    read = _reread(context, [output for _, output in doubtful])
    for (stage, output), found in zip(doubtful, read, strict=True):
        if found != (output.rows, output.fingerprint):
            wrong.append((stage, output.output))
    if wrong:
        raise InputError(
            f"{reader}: outputs of the stages before must re-read as logged, got others in "
            f"{sorted(output for _, output in wrong)} of run {context.run_id}; run "
            f"{', '.join(dict(wrong))} again, which rebuilds them, or jobs/run_daily.py"
        )


_UNREADABLE = (-1, "unreadable")


def _reread(context: StageRun, outputs: Sequence[Written]) -> list[tuple[int, str]]:
    """Rows and checksum of outputs in tables; `_UNREADABLE` where a file of theirs is lost or damaged."""
    named = [(TABLES[name], partition) for name, partition in (parse_output(one.output) for one in outputs)]
    try:
        return fingerprints_of(
            [
                (table, context.store.read(table, run_id=context.run_id, **partition))
                for table, partition in named
            ]
        )
    except (PySparkException, Py4JError) as error:
        known = recognised(error)
        if not isinstance(known, InputError):
            raise
        LOG.warning("run=%s state=damaged: %s", context.run_id, known)
        if len(outputs) == 1:
            return [_UNREADABLE]
        return [_reread(context, [output])[0] for output in outputs]  # the others may stand


class Parts:
    """The parts of a stage: what an attempt finished before it was killed, the next one keeps."""

    def __init__(self, context: StageRun, stage: Stage) -> None:
        log = read_log(context.store, context.run_id)
        self._context, self._stage = context, stage.name
        self._key = stage_key(stage, context.config, context.run, log)
        self._logged = logged_parts(log, stage.name)

    def kept(self, part: str) -> tuple[Written, ...] | None:
        """What an earlier attempt wrote with the same inputs, if it still stands."""
        logged = self._logged.get(part)
        if logged is None or logged.stage_key != self._key or not _stands(self._context, logged):
            return None
        _report(self._context, f"{self._stage}{PART}{part}", "kept", logged.outputs, 0.0)
        return logged.outputs

    def finish(self, part: str, outputs: list[Written], seconds: float) -> None:
        """From now on the part is kept."""
        name = f"{self._stage}{PART}{part}"
        log_stage(self._context.store, self._context.run_id, name, self._key, outputs, seconds)
        _report(self._context, name, "done", outputs, seconds)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:500]


def stage_key(stage: Stage, config: Config, run: Run, done: dict[str, Logged]) -> str:
    """sha256 of everything that decides the stage's output.

    Raises:
        InputError: a stage before it has not finished.
    """
    missing = [name for name in stage.after if name not in done]
    if missing:
        raise InputError(
            f"{stage.name}: stages {missing} must have finished for run {run.run_id}, got "
            f"{sorted(done) or 'none'}; run them first, or all with jobs/run_daily.py"
        )
    upstream = [
        f"{o.output}={o.fingerprint}" for name in stage.after for o in done[name].outputs if _decides(o)
    ]
    return config_hash(stage.name, config.seed, *stage.settings(config), *sorted(upstream))


def _decides(output: Written) -> bool:
    """Figures carry times; they decide nothing downstream."""
    return not output.output.startswith(RUN_METRICS.name)


def _stands(context: StageRun, logged: Logged) -> bool:
    """Whether every logged output re-reads with the rows and checksum it was logged with."""
    decisive = [*filter(_decides, logged.outputs)]
    tables = [one for one in decisive if not one.output.startswith(_ARTIFACT)]
    found = dict(zip((one.output for one in tables), _reread(context, tables), strict=True))
    for output in decisive:
        if output.output not in found:
            _, fingerprint = folder_digest(context.artifacts(output.output.removeprefix(_ARTIFACT)))
            found[output.output] = (output.rows, fingerprint)
        if found[output.output] != (output.rows, output.fingerprint):
            LOG.warning(
                "output=%s run=%s state=changed expected=%s found=%s: rebuilding", output.output,
                context.run_id, (output.rows, output.fingerprint), found[output.output],
            )  # fmt: skip
            return False
    context._verified.update(decisive)
    return True


def _report(context: StageRun, stage: str, state: str, outputs: Iterable[Written], seconds: float) -> None:
    counted = [o for o in outputs if _decides(o)]
    rows, size = sum(o.rows for o in counted), sum(o.bytes for o in counted)
    LOG.info(
        "stage=%s run=%s state=%s rows=%d bytes=%d seconds=%.1f",
        stage, context.run_id, state, rows, size, seconds,
    )  # fmt: skip

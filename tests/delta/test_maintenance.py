"""Collection under one root leaves what another root stores in the same `artifacts` folder."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from pyspark.sql import SparkSession
from support import world
from walkbits.config import Config, artifacts_of
from walkbits.runs.log import Run, newest_state, record_state
from walkbits.settings import Maintenance
from walkbits.stages.maintain_tables import maintain
from walkbits.tables.store import Store

RUN = Run(date(2026, 1, 1), "ab" * 32, 1)


def test_roots_with_one_artifacts_folder_keep_their_runs_apart(spark: SparkSession, tmp_path: Path) -> None:
    """Copied inputs give both roots a run of the same id; one collects its own."""

    def opened(name: str) -> tuple[Store, Config, Path]:
        changes = {
            "root": str(tmp_path / name),
            "artifacts": str(tmp_path / "artifacts"),
            "maintenance": Maintenance(keep_published=1, keep_days=0),
        }
        config = world.world_config(tmp_path).model_copy(update=changes)
        store = Store(spark, config.root)
        record_state(store, RUN, config, "created")
        folder = Path(str(artifacts_of(config))) / RUN.run_id
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_text(name)
        return store, config, folder

    (ours, config, folder), (theirs, _, kept) = opened("ours"), opened("theirs")
    assert maintain(ours, config) == [RUN.run_id]
    assert not folder.exists()
    assert (kept / "model.safetensors").read_text() == "theirs"
    assert newest_state(ours, RUN.run_id) == "collected"
    assert newest_state(theirs, RUN.run_id) == "created"

"""What a day takes: told from counts, and asked before a stage starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from walkbits.arrays.places import place_of
from walkbits.config import Config
from walkbits.errors import WalkbitsError
from walkbits.forecast import Counts, Forecast, explained, forecast_day
from walkbits.models import architectures
from walkbits.runs.room import available_memory, check_room, free_bytes

INTERACTIONS = {"path": "x", "item": "i", "context": "c"}
SMALL, LARGE = (
    Counts(100_000, 20_000, 1_100_000, 1_000_000),
    Counts(1_000_000, 200_000, 11_000_000, 10_000_000),
)


def config_of(**sections: object) -> Config:
    return Config.model_validate({"root": "/r", "interactions": INTERACTIONS, **sections})


def by_stage(counts: Counts, config: Config, cores: int = 2) -> dict[str, Forecast]:
    return {one.stage: one for one in forecast_day(counts, config, cores)}


@pytest.mark.parametrize("name", [*architectures()])
def test_every_model_has_a_forecast_that_grows_with_the_graph(name: str) -> None:
    items = {"path": "y", "item": "i", "text": ["t"]}
    config = config_of(items=items, model={"architecture": name})
    small, large = by_stage(SMALL, config), by_stage(LARGE, config)
    assert [*small] == [
        "open", "ingest_graph", "build_features", "build_neighborhoods", "train_model", "infer_layers",
        "build_index", "publish_run",
    ]  # fmt: skip
    for stage, one in small.items():
        assert 0 < one.seconds < large[stage].seconds
        assert one.written <= large[stage].written


def test_the_smallest_graph_has_a_forecast() -> None:
    smallest = by_stage(Counts(1, 1, 1, 1), config_of())
    assert all(one.seconds > 0 for one in smallest.values())


def test_training_holds_the_rows_and_both_moments_of_each_id() -> None:
    one = by_stage(SMALL, config_of(model={"architecture": "item_pool", "embedding_size": 64}))["train_model"]
    assert one.held == 3 * 4 * 64 * 100_000
    kept = by_stage(
        SMALL, config_of(model={"embedding_size": 64}, training={"validation_fraction": 0.1})
    )["train_model"]  # fmt: skip
    assert kept.held == 4 * 4 * 64 * 100_000


def test_layers_map_and_write_fp32_vectors() -> None:
    one = by_stage(SMALL, config_of(model={"embedding_size": 64}))["infer_layers"]
    assert one.mapped == 4 * 64 * 100_000  # the rows that items pool, then those that contexts pool
    assert one.written == 4 * 64 * (100_000 + 100_000 + 20_000)


def test_cores_share_all_stages_but_training() -> None:
    config = config_of()
    two, eight = by_stage(LARGE, config), by_stage(LARGE, config, cores=8)
    assert eight["train_model"].seconds == two["train_model"].seconds
    assert eight["ingest_graph"].seconds < two["ingest_graph"].seconds


def test_the_table_has_a_line_a_stage_and_their_sum() -> None:
    stages = [Forecast("a", 1.0, 10**6, 5 * 10**6), Forecast("b", 2.4, 10**6, 10**6, 2 * 10**9, 3 * 10**9)]
    lines = [line.split() for line in explained(stages).splitlines()]
    assert lines[2] == ["b", "2", "1.00", "MB", "1.00", "MB", "2.00", "GB", "3.00", "GB"]
    assert lines[3] == ["day", "3", "2.00", "MB", "5.00", "MB"]


def test_a_stage_without_room_is_refused(tmp_path: Path) -> None:
    fits = Forecast("train_model", 1.0, 1, 1, 1, 1)
    root, artifacts = place_of(f"{tmp_path}/none/yet"), place_of(f"{tmp_path}")
    check_room(fits, root, artifacts)
    disk = r"train_model needs \S+ GB of disk below '\S+yet' for tables and scratch files, got .* free; make room"
    with pytest.raises(WalkbitsError, match=disk):
        check_room(replace(fits, written=1 << 62), root, artifacts)
    with pytest.raises(WalkbitsError, match=disk):
        check_room(replace(fits, scratch=1 << 62), root, artifacts)
    most = free_bytes(tmp_path) * 2 // 3  # each would fit alone, and both are on one disk
    with pytest.raises(WalkbitsError, match=disk):
        check_room(replace(fits, written=most, scratch=most), root, artifacts)
    with pytest.raises(WalkbitsError, match=r"of memory .* available; lower model\.embedding_size"):
        check_room(replace(fits, held=1 << 62), root, artifacts)
    remote = place_of("s3://bucket/x")
    check_room(replace(fits, written=1 << 62, scratch=1 << 62), remote, remote)
    assert free_bytes(tmp_path / "none" / "yet") > 0


def test_available_memory_is_what_the_machine_says(tmp_path: Path) -> None:
    said = tmp_path / "meminfo"
    assert available_memory(said) is None
    said.write_text("MemTotal:       100 kB\nMemAvailable:    7 kB\n")
    assert available_memory(said) == 7 * 1024

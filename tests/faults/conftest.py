"""Published days of the small world, made once and copied by every test that damages one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from support import world
from support.days import DAY, NEXT_DAY, Day, day_of
from walkbits.stages import daily


@pytest.fixture(scope="session")
def two_days(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Day:
    """Two published days under one root, of the same inputs; the newer one is live."""
    day = day_of(spark, world.world_config(tmp_path_factory.mktemp("two_days")))
    daily.run_daily(spark, day.config, ds=DAY)
    daily.run_daily(spark, day.config, ds=NEXT_DAY)
    return day


@pytest.fixture
def copied(two_days: Day, tmp_path: Path) -> Callable[..., Day]:
    """Copies of the two days, with other settings at will."""

    def copy(**update: object) -> Day:
        root = tmp_path / f"copy{len(list(tmp_path.iterdir()))}"
        shutil.copytree(two_days.config.root, root)
        return day_of(two_days.spark, two_days.config.model_copy(update={"root": str(root), **update}))

    return copy

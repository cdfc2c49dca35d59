"""One Spark session for every Spark test, and the faults and folders they share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from pyspark.sql import SparkSession
from support.small_data import SMALL_DATA

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "lib"))

# Workers must run this very interpreter and find the package without an installation.
os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
os.environ["PYTHONPATH"] = os.pathsep.join(map(str, [ROOT / "lib", ROOT / "tests", ROOT]))
os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
os.environ.pop("SPARK_HOME", None)
# Matrices here are small, and processes of tests share the cores: threads would wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")
# The session gets its settings below, not from whatever folder the caller has activated.
os.environ["SPARK_CONF_DIR"] = str(ROOT / "tests")

# The same examples on every machine, and no limit on one that compiles a kernel first.
settings.register_profile("walkbits", derandomize=True, deadline=None)
settings.load_profile("walkbits")


def shipped_settings() -> dict[str, str]:
    """conf/spark-defaults.conf as key -> value: tests run on what users run on."""
    lines = (ROOT / "conf" / "spark-defaults.conf").read_text(encoding="utf-8").splitlines()
    pairs = (line.split(maxsplit=1) for line in lines if line.strip() and not line.lstrip().startswith("#"))
    return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}


def jars() -> list[Path | str]:
    """Delta's jars, and GraphFrames' where WALKBITS_GRAPHFRAMES_JAR names it."""
    return [
        *sorted((ROOT / ".cache" / "jars").glob("*.jar")),
        *filter(None, [os.environ.get("WALKBITS_GRAPHFRAMES_JAR")]),
    ]


TEST_SETTINGS = SMALL_DATA | {"spark.jars": ",".join(map(str, jars()))}


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """The session; its warehouse is a scratch folder."""
    builder = SparkSession.builder.appName("walkbits-tests")
    settings = shipped_settings() | TEST_SETTINGS
    settings["spark.sql.warehouse.dir"] = str(tmp_path_factory.mktemp("warehouse"))
    for key, value in settings.items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()


@pytest.fixture(autouse=True)
def _reset_session(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave no cached table or temporary view behind."""
    yield
    if "spark" in request.fixturenames:
        session: SparkSession = request.getfixturevalue("spark")
        session.catalog.clearCache()
        for table in session.catalog.listTables():
            if table.isTemporary:
                session.catalog.dropTempView(table.name)

"""doctor on the tests' own session, which runs on the shipped settings and jars."""

from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from walkbits.tools import doctor

ROOT = Path(__file__).resolve().parents[2]


def test_all_is_well_here(spark: SparkSession, tmp_path: Path) -> None:
    findings = doctor.examine(spark, str(tmp_path / "tables"), ROOT)
    assert doctor.healthy(findings), doctor.report(findings)
    assert any(f.subject.startswith("jar delta-spark") and "on the class path" in f.seen for f in findings)
    assert not list((tmp_path / "tables").iterdir())


def test_class_that_no_jar_has(spark: SparkSession) -> None:
    assert doctor.class_file(spark, "org.example.NoSuchClass") is None
    place = doctor.class_file(spark, "io.delta.sql.DeltaSparkSessionExtension")
    assert place is not None
    assert "delta-spark" in place


def test_table_that_cannot_be_written(spark: SparkSession, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    finding = doctor.tried("Delta", "make setup", lambda: doctor.delta_round_trip(spark, str(blocked)))
    assert finding.fix == "make setup"


@pytest.mark.parametrize("key", ["spark.sql.session.timeZone", "spark.sql.ansi.enabled"])
def test_setting_changed_in_the_session(spark: SparkSession, key: str) -> None:
    before = spark.conf.get(key)
    try:
        spark.conf.set(key, "false" if before == "true" else "America/New_York")
        assert doctor.setting_finding(key, doctor.setting(spark, key)).fix
    finally:
        spark.conf.set(key, str(before))

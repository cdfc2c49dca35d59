"""Checks the environment and prints the command that fixes each problem."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from walkbits.graph.profile import COORDINATE
from walkbits.session import REQUIRED_SETTINGS, setting
from walkbits.tables.rows import Batches

SETUP: Final = "make setup"
ACTIVATE: Final = "source conf/env.sh"
PACKAGES: Final = (
    "pyspark", "delta-spark", "graphframes-py", "pyarrow", "numpy", "pandas", "torch", "numba",
    "faiss-cpu", "scipy", "safetensors", "pydantic",
)  # fmt: skip
"""Packages a job imports; their versions must be those of requirements.lock."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `fix` is empty where all is well; an optional thing may be absent."""

    subject: str
    seen: str
    fix: str = ""
    required: bool = True


def examine(spark: SparkSession, root: str, project: Path) -> list[Finding]:
    """Look at everything.

    Args:
        root: Folder or URI of the tables; the probe table is written there and removed.
        project: Folder with versions.env, requirements.lock and conf/jars.sha256.
    """
    versions = read_versions(project / "versions.env")
    locked = read_lock(project / "requirements.lock")
    sums = [line.split() for line in (project / "conf" / "jars.sha256").read_text().splitlines()]
    folder = project / ".cache" / "jars"
    return [
        python_finding(platform.python_version(), versions),
        *(package_finding(name, installed_version(name), locked) for name in PACKAGES),
        *jvm_findings(spark, versions),
        *(jar_finding(jar, class_path(spark), altered(folder / jar, wanted)) for wanted, jar in sums),
        graphframes_finding(class_file(spark, "org.graphframes.GraphFramePythonAPI"), versions),
        *(setting_finding(key, setting(spark, key)) for key in REQUIRED_SETTINGS),
        address_finding(str(spark.sparkContext.master), os.environ.get("SPARK_LOCAL_IP")),
        tried("Python workers", SETUP, lambda: workers(spark)),
        tried("Delta write and read", SETUP, lambda: delta_round_trip(spark, root)),
    ]


def healthy(findings: Iterable[Finding]) -> bool:
    """Whether all that is required is well."""
    return not any(finding.fix and finding.required for finding in findings)


def report(findings: Iterable[Finding]) -> str:
    """The findings as lines of text, a fix below each problem, and one closing line."""
    findings = list(findings)
    width = max(len(finding.subject) for finding in findings)
    lines = []
    for finding in findings:
        mark = "ok  " if not finding.fix else "FAIL" if finding.required else "none"
        lines.append(f"{mark}  {finding.subject:<{width}}  {finding.seen}")
        if finding.fix:
            lines.append(f"{'':4}  {'':<{width}}  {'fix' if finding.required else 'optional'}: {finding.fix}")
    problems = sum(1 for finding in findings if finding.fix and finding.required)
    closing = "All that is required is well."
    if problems:
        closing = (
            f"{problems} problem{'s' * (problems > 1)}; each line marked FAIL is followed by what fixes it."
        )
    return "\n".join([*lines, "", closing]) + "\n"


def read_versions(path: Path) -> dict[str, str]:
    """The KEY=value lines of versions.env, quotes removed."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    pairs = (line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {key: value.strip("'\"") for key, value in pairs}


def read_lock(path: Path) -> dict[str, str]:
    """Package -> version of requirements.lock."""
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", path.read_text(encoding="utf-8"), re.MULTILINE))


def installed_version(package: str) -> str | None:
    """Version of an installed package, None when absent."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def python_finding(seen: str, versions: dict[str, str]) -> Finding:
    """The driver's interpreter."""
    fits = seen.startswith(versions["PYTHON_VERSION"] + ".")
    return Finding("Python", f"{seen} ({sys.executable})", "" if fits else ACTIVATE)


def package_finding(package: str, seen: str | None, locked: dict[str, str]) -> Finding:
    """One package against the lock."""
    if seen == locked[package]:
        return Finding(package, seen)
    return Finding(package, f"{seen or 'absent'}, but requirements.lock has {locked[package]}", SETUP)


def jvm_findings(spark: SparkSession, versions: dict[str, str]) -> list[Finding]:
    """Java, Scala and Spark as the driver's JVM reports them."""
    jvm: Any = spark.sparkContext._jvm
    java, home = (jvm.System.getProperty(key) for key in ("java.version", "java.home"))
    scala = jvm.scala.util.Properties.versionNumberString()
    accepted = versions["JAVA_ACCEPTED"].split()
    return [
        Finding(
            "Java", f"{java} ({home})", "" if java.split(".")[0] in accepted else f"{SETUP} && {ACTIVATE}"
        ),
        Finding("Scala", scala, "" if scala.startswith(versions["SCALA_VERSION"]) else ACTIVATE),
        Finding(
            "Spark",
            f"{spark.version} on {spark.sparkContext.master}",
            "" if spark.version == versions["PYSPARK_VERSION"] else ACTIVATE,
        ),
    ]


def class_path(spark: SparkSession) -> list[str]:
    """Addresses of the jars that Spark ships to driver and executors."""
    jars = spark.sparkContext._jsc.sc().listJars()
    return [jars.apply(i) for i in range(jars.size())]


def class_file(spark: SparkSession, name: str) -> str | None:
    """Address of the jar that a JVM class was loaded from, None when no jar has it."""
    jvm: Any = spark.sparkContext._jvm
    try:
        found = jvm.Thread.currentThread().getContextClassLoader().loadClass(name)
    except Py4JError:
        return None
    return str(found.getProtectionDomain().getCodeSource().getLocation())


def altered(file: Path, wanted: str) -> bool:
    """Whether a file is there with another sha256."""
    return file.exists() and hashlib.sha256(file.read_bytes()).hexdigest() != wanted


def jar_finding(jar: str, on_class_path: list[str], changed: bool = False) -> Finding:
    """One jar of conf/jars.sha256."""
    if changed:
        return Finding(f"jar {jar}", "not the file of conf/jars.sha256", SETUP)
    place = next((path for path in on_class_path if path.endswith(jar)), None)
    if place is not None:
        return Finding(f"jar {jar}", "on the class path")
    fix = f"{SETUP} && {ACTIVATE}, and submit from the repository root"
    return Finding(f"jar {jar}", "not on the class path", fix)


def graphframes_finding(place: str | None, versions: dict[str, str]) -> Finding:
    """The optional jar: only jobs/profile_graph.py and ingest.k_core need it."""
    wanted = versions["GRAPHFRAMES_VERSION"]
    coordinate = COORDINATE.format(scala=versions["SCALA_VERSION"], version=wanted)
    fix = (
        f"spark-submit --packages {coordinate} --conf spark.jars.ivySettings=conf/ivysettings.xml "
        "jobs/profile_graph.py"
    )
    if place is None:
        seen = "absent; needed by jobs/profile_graph.py and ingest.k_core only"
        return Finding("jar graphframes", seen, fix, required=False)
    if wanted not in place:
        return Finding("jar graphframes", f"{place}, but the wheel is {wanted}", fix)
    return Finding("jar graphframes", place)


def setting_finding(key: str, seen: str | None) -> Finding:
    """One Spark setting that right results depend on."""
    wanted, reason = REQUIRED_SETTINGS[key]
    if seen == wanted:
        return Finding(key, seen)
    fix = f"{ACTIVATE}, or spark-submit --properties-file conf/spark-defaults.conf"
    return Finding(key, f"{seen}, must be {wanted}: {reason}", fix)


def address_finding(master: str, local_ip: str | None) -> Finding:
    """Executors on other machines must be able to reach the driver."""
    remote = not master.startswith("local")
    unreachable = remote and (local_ip or "").startswith("127.")
    return Finding("SPARK_LOCAL_IP", local_ip or "unset", "unset SPARK_LOCAL_IP" if unreachable else "")


def workers(spark: SparkSession) -> str:
    """Import the package and what it computes with in a worker; returns its Python version."""

    def imports(batches: Batches) -> Batches:
        import faiss
        import numba
        import torch

        import walkbits

        for _ in batches:
            libraries = (walkbits, torch, numba, faiss)
            seen = ", ".join(f"{library.__name__} {library.__version__}" for library in libraries)
            yield pa.RecordBatch.from_pydict({"seen": [f"Python {platform.python_version()}, {seen}"]})

    rows = spark.range(1, numPartitions=1).mapInArrow(imports, "seen string").collect()
    return str(rows[0].seen)


def delta_round_trip(spark: SparkSession, root: str) -> str:
    """Write a tiny Delta table under the root, read it back, remove it."""
    path = f"{root.rstrip('/')}/_doctor_{os.getpid()}"
    try:
        spark.range(3).write.format("delta").save(path)
        rows = spark.read.format("delta").load(path).count()
        if rows != 3:
            raise ValueError(f"wrote 3 rows, read {rows}")
    finally:
        folder = spark.sparkContext._jvm.org.apache.hadoop.fs.Path(path)  # type: ignore[union-attr]
        folder.getFileSystem(spark.sparkContext._jsc.hadoopConfiguration()).delete(folder, True)
    return f"3 rows under {root}"


def tried(subject: str, fix: str, attempt: Callable[[], str]) -> Finding:
    """What an attempt says, or the first line of its error."""
    try:
        return Finding(subject, attempt())
    except (Py4JError, PySparkException, OSError, ValueError) as error:
        java = getattr(error, "java_exception", None)
        text = str(java.getMessage() if java is not None else error).strip()
        return Finding(subject, text.splitlines()[0] if text else type(error).__name__, fix)

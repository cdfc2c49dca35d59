"""The Spark session of a job, and the settings walkbits relies on.

Jobs set no master, memory or packages: those come from conf/spark-defaults.conf and
spark-submit. What a job needs for right results it checks here, before any work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, ParamSpec, Protocol, TypeVar

from pyspark.sql import SparkSession
from pyspark.util import inheritable_thread_target

from walkbits.errors import WalkbitsError

P = ParamSpec("P")
T = TypeVar("T")

REQUIRED_SETTINGS: Final[dict[str, tuple[str, str]]] = {
    # key: (value, what goes wrong otherwise)
    "spark.sql.extensions": ("io.delta.sql.DeltaSparkSessionExtension", "Delta SQL cannot be parsed"),
    "spark.sql.catalog.spark_catalog": (
        "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "Delta tables cannot be created",
    ),
    "spark.sql.session.timeZone": ("UTC", "days would depend on the machine's zone"),
    "spark.sql.ansi.enabled": ("true", "overflow and bad casts would pass silently"),
    "spark.sql.legacy.parquet.nanosAsLong": ("true", "the times that pandas writes could not be read"),
    "spark.sql.files.ignoreCorruptFiles": ("false", "a damaged file would be skipped"),
    "spark.sql.files.ignoreMissingFiles": ("false", "a lost file would be skipped"),
    "spark.sql.legacy.parameterSubstitution.constantsOnly": (
        "true",
        "Delta's parser would drop the parameters of queries",
    ),
    "spark.hadoop.parquet.page.verify-checksum.enabled": ("true", "a flipped bit would be read as data"),
    "spark.sql.shuffle.orderIndependentChecksum.enabled": ("true", "a retried shuffle could mix two results"),
    "spark.sql.shuffle.orderIndependentChecksum.enableFullRetryOnMismatch": (
        "true",
        "a retried shuffle could mix two results",
    ),
}


def get_session(app_name: str) -> SparkSession:
    """The session that spark-submit configured.

    Raises:
        WalkbitsError: a required setting is missing or has another value.
    """
    spark = SparkSession.builder.appName(app_name).getOrCreate()
    wrong = wrong_settings(spark)
    if wrong:
        raise WalkbitsError(
            f"Spark settings: {'; '.join(wrong)}. Run `source conf/env.sh`, or pass "
            "--properties-file conf/spark-defaults.conf to spark-submit"
        )
    return spark


def wrong_settings(spark: SparkSession) -> list[str]:
    """One sentence per required setting that has another value."""
    return [
        f"{key} must be {value} ({reason}), got {seen}"
        for key, (value, reason) in REQUIRED_SETTINGS.items()
        if (seen := setting(spark, key)) != value
    ]


def setting(spark: SparkSession, key: str) -> str | None:
    """The value of a Spark or `spark.hadoop.` setting in force, None when unset."""
    value = spark.conf.get(key, None)
    return None if value is None else str(value)


_AT_ONCE: Final = 4
"""Queries: more would share the same cores, and each holds what it reads."""


class Submit(Protocol):
    """Starts a call in a thread that has this one's job group."""

    def __call__(self, work: Callable[P, T], /, *args: P.args, **named: P.kwargs) -> Future[T]: ...


@contextmanager
def at_once(spark: SparkSession) -> Iterator[Submit]:
    """Independent queries side by side: planning one takes a core that the tasks of another leave idle.

    The block ends when all have ended.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:

        def submit(work: Callable[P, T], /, *args: P.args, **named: P.kwargs) -> Future[T]:
            return pool.submit(inheritable_thread_target(spark)(work), *args, **named)

        yield submit

"""Spark's settings for tables of a few hundred rows, each with its reason. They change speed, never rows.

Tests run on conf/spark-defaults.conf with these laid over it; a few tests set the others to prove that
no bit depends on them.
"""

from __future__ import annotations

from typing import Final

SMALL_DATA: Final = {
    # Two tasks at once on any machine; a killed worker is retried, as on a cluster.
    "spark.master": "local[2,4]",
    "spark.driver.memory": "2g",
    # Fewer empty tasks.
    "spark.sql.shuffle.partitions": "3",
    "spark.databricks.delta.snapshotPartitions": "1",
    # Most of a short job is the JVM warming up: its second compiler and its second collector thread
    # take the cores from the work, and never pay.
    "spark.driver.defaultJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    "spark.executor.defaultJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    # A plan made anew after every shuffle is a job for every shuffle.
    "spark.sql.adaptive.enabled": "false",
    # Compiling a query takes longer than interpreting it over few rows.
    "spark.sql.codegen.wholeStage": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.ui.enabled": "false",
}

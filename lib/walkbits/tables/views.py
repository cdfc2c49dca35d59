"""Names for SQL: every table as a view over its path, fixed views over the published run, and functions."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pyspark.sql import SparkSession

from walkbits.errors import InputError
from walkbits.schemas import PUBLICATIONS, TABLES
from walkbits.tables.store import Store

LIVE: Final = "live"
"""The channel that the views' files name."""
SQL_FOLDER = Path(__file__).resolve().parents[3] / "sql"


def register_views(
    spark: SparkSession, root: str, sql_folder: Path = SQL_FOLDER, channel: str = LIVE
) -> list[str]:
    """Register temporary views of all tables under a root in this session.

    `<table>` holds every run; `published_<table>` follows the pointer of a channel. Functions come with them.

    Returns:
        The names registered.

    Raises:
        InputError: nothing was ever published under the root, or the views' files are not there.
    """
    store = Store(spark, root)
    if not store.exists(PUBLICATIONS):
        raise InputError(
            f"root must hold published tables, got '{root}' without any; run jobs/run_daily.py first"
        )
    scripts = sorted((sql_folder / "views").glob("*.sql"))
    if not scripts:
        raise InputError(
            f"the folder sql/ must be beside lib/, got none at '{sql_folder}'; "
            "run from a checkout, not from a zip"
        )
    install_functions(spark, sql_folder)
    names = []
    for table in TABLES.values():
        store.read(table).createOrReplaceTempView(table.name)
        names.append(table.name)
    for script in scripts:
        for statement in statements(script.read_text(encoding="utf-8")):
            # Views take no parameters; a channel's name is checked by its pattern in Config.
            spark.sql(statement.replace(f"'{LIVE}'", f"'{channel}'"))
        names.append(script.stem)
    return names


def install_functions(spark: SparkSession, sql_folder: Path = SQL_FOLDER) -> None:
    """Install the SQL functions of sql/functions.sql in this session."""
    for statement in statements((sql_folder / "functions.sql").read_text(encoding="utf-8")):
        spark.sql(statement)


def statements(text: str) -> list[str]:
    """The statements of a script, split at line-ending semicolons, comment-only parts dropped."""
    parts = [part.strip() for part in text.replace(";\n", ";;\n").split(";;\n")]
    parts = [part.removesuffix(";").strip() for part in parts]
    return [
        part
        for part in parts
        if any(not line.lstrip().startswith("--") and line.strip() for line in part.splitlines())
    ]

"""The SQL prompt on the published views."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from py4j.protocol import Py4JJavaError
from pyspark.errors import ParseException, PySparkException
from pyspark.sql import DataFrame, SparkSession

from walkbits.errors import InputError
from walkbits.tables.queries import check_reads, load_query, parse_arguments, run_query

ROWS_SHOWN: Final = 200
CELL_WIDTH: Final = 80

HELP: Final = """\
Statements end with a semicolon. Beside SQL:
  views            the published views and all tables
  columns NAME     columns of one of them
  run FILE [NAME=VALUE ...]    a file of sql/queries
  quit             or Ctrl-D
"""


def show(frame: DataFrame) -> None:
    """Print a result as a table, and say so when there is more."""
    frame.show(ROWS_SHOWN, truncate=CELL_WIDTH)


def prompt(spark: SparkSession, views: Sequence[str]) -> None:
    """Read statements until the end of input, print each result or its error, and go on."""
    # Spark logs every failed statement once more, as JSON with a stack trace.
    logging.getLogger("SQLQueryContextLogger").setLevel(logging.CRITICAL)
    views = sorted(views, key=lambda view: not view.startswith("published_"))
    interactive = sys.stdin.isatty()
    if interactive:
        _line_editing(views)
        sys.stdout.write(f"Views: {', '.join(views)}\nType help for help.\n")
    pending = ""
    while True:
        try:
            line = input(("    ...> " if pending else "walkbits> ") if interactive else "")
        except EOFError:
            break
        except KeyboardInterrupt:
            sys.stdout.write("\n")
            pending = ""
            continue
        if not pending and (command := _command(spark, views, line)):
            if line.strip() in ("quit", "exit"):
                break
            _guarded(command)
            continue
        pending = f"{pending}\n{line}".strip()
        if pending.endswith(";"):
            statement, pending = pending.removesuffix(";"), ""
            _guarded(lambda statement=statement: show(_read(spark, statement)))  # type: ignore[misc]
    if pending:
        _guarded(lambda: show(_read(spark, pending)))


def _read(spark: SparkSession, statement: str) -> DataFrame:
    check_reads(spark, statement)
    return spark.sql(statement)


def _command(spark: SparkSession, views: Sequence[str], line: str) -> Callable[[], object] | None:
    """What a line that is not SQL asks for."""
    words = line.strip().rstrip(";").split()
    match words:
        case ["help"]:
            return lambda: sys.stdout.write(HELP)
        case ["quit"] | ["exit"]:
            return lambda: None
        case ["views"]:
            return lambda: sys.stdout.write("\n".join(views) + "\n")
        case ["columns", name]:
            return lambda: sys.stdout.write(_columns(spark.table(name)))
        case ["run", file, *pairs]:
            return lambda: _run_file(spark, Path(file), pairs)
    return None


def _columns(frame: DataFrame) -> str:
    return "".join(f"{field.name:<20} {field.dataType.simpleString()}\n" for field in frame.schema)


def _run_file(spark: SparkSession, path: Path, pairs: Sequence[str]) -> None:
    query = load_query(path)
    show(run_query(spark, query, parse_arguments(query, pairs)))


def _guarded(action: Callable[[], object]) -> None:
    """Run it; an error or Ctrl-C ends the statement, not the prompt."""
    try:
        action()
    except ParseException as error:
        sys.stdout.write(f"{error}\n")
    except (PySparkException, InputError) as error:
        sys.stdout.write(f"{first_paragraph(str(error))}\n")
    except Py4JJavaError as error:
        sys.stdout.write(f"{error.java_exception.getMessage()}\n")
    except KeyboardInterrupt:
        spark = SparkSession.getActiveSession()
        if spark is not None:
            spark.sparkContext.cancelAllJobs()
        sys.stdout.write("\ncancelled\n")


def first_paragraph(message: str) -> str:
    """An error's own words, without the plan or stack that Spark prints below them."""
    lines = []
    for line in message.strip().splitlines():
        if not line.strip() or line.startswith(("'", "+-", "==", "JVM stacktrace")):
            break
        lines.append(line)
    return "\n".join(lines).rstrip(";")


def _line_editing(words: Sequence[str]) -> None:
    """Arrow keys, history, and completion of view names, where the terminal has them."""
    with contextlib.suppress(ImportError):
        import readline

        def complete(text: str, state: int) -> str | None:
            matches = [word for word in words if word.startswith(text)]
            return matches[state] if state < len(matches) else None

        readline.set_completer(complete)
        readline.parse_and_bind("tab: complete")

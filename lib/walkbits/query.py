"""SQL on the published views: query files with named parameters, and a prompt."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from py4j.protocol import Py4JJavaError
from pyspark.errors import ParseException, PySparkException
from pyspark.sql import DataFrame, SparkSession

from walkbits.errors import InputError

ROWS_SHOWN: Final = 200
CELL_WIDTH: Final = 80

HELP: Final = """\
Statements end with a semicolon. Beside SQL:
  views            the published views and all tables
  columns NAME     columns of one of them
  run FILE [NAME=VALUE ...]    a file of sql/queries
  quit             or Ctrl-D
"""


@dataclass(frozen=True)
class Parameter:
    """A named parameter as a query's header describes it.

    Attributes:
        example: In SQL's notation; its type is the parameter's type.
    """

    meaning: str
    example: str


@dataclass(frozen=True)
class Query:
    """One statement, its parameters by name, and where it came from."""

    path: Path
    text: str
    parameters: dict[str, Parameter]


def load_query(path: Path) -> Query:
    """Read a query file; its header names each parameter with an example.

    Raises:
        InputError: no such file, or a parameter that the header does not describe.
    """
    if not path.is_file():
        known = ", ".join(sorted(str(file) for file in Path("sql/queries").glob("*.sql")))
        raise InputError(f"query must be a file, got '{path}'; there are: {known}")
    text = path.read_text(encoding="utf-8")
    header = "\n".join(line.removeprefix("--") for line in text.splitlines() if line.startswith("--"))
    statement = "\n".join(line for line in text.splitlines() if not line.startswith("--")).strip()
    described = {
        name: Parameter(meaning.strip(), example)
        for name, meaning, example in re.findall(
            r"^ *(?:Parameters:)? +(\w+)  +(.*?), e\.g\. ('.*'|\S+)$", header, re.MULTILINE
        )
    }
    used = set(re.findall(r"(?<![:\w]):([a-z]\w*)", statement))
    if used - set(described):
        raise InputError(
            f"query '{path}': the header must describe each parameter as `name  meaning, e.g. example`, "
            f"got none for {sorted(used - set(described))}"
        )
    return Query(
        path, statement.removesuffix(";"), {name: described[name] for name in described if name in used}
    )


def parse_arguments(query: Query, pairs: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE pairs as the query's arguments, each of its example's type.

    Raises:
        InputError: a pair, name or value that does not fit, or a parameter without a value;
            tells what the query takes.
    """
    takes = "; ".join(f"{name} ({p.meaning}, e.g. {p.example})" for name, p in query.parameters.items())
    takes = f"the query takes {takes or 'no parameters'}"
    given: dict[str, str] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator:
            raise InputError(f"arguments must be NAME=VALUE, got '{pair}'; {takes}")
        if name not in query.parameters:
            raise InputError(f"{query.path}: no parameter is named '{name}'; {takes}")
        given[name] = value
    missing = [name for name in query.parameters if name not in given]
    if missing:
        raise InputError(f"{query.path}: {missing} must be given as NAME=VALUE; {takes}")
    return {name: _typed(name, value, query.parameters[name].example) for name, value in given.items()}


def _typed(name: str, value: str, example: str) -> Any:
    if example.startswith("'"):
        # Ids stay text, also those that look like numbers.
        return value
    kind = type(yaml.safe_load(example))
    try:
        return kind(value)
    except ValueError as error:
        raise InputError(f"{name} must be a number such as {example}, got '{value}'") from error


def run_query(spark: SparkSession, query: Query, arguments: dict[str, Any]) -> DataFrame:
    """The query's result; values travel as parameters, never as text."""
    return spark.sql(query.text, args=arguments) if arguments else spark.sql(query.text)


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
            _guarded(lambda statement=statement: show(spark.sql(statement)))  # type: ignore[misc]
    if pending:
        _guarded(lambda: show(spark.sql(pending)))


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

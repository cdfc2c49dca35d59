"""SQL files with named parameters: read, checked, run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pyspark.sql import DataFrame, SparkSession

from walkbits.errors import InputError


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
            names the query's parameters.
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


_READS = ("SELECT", "WITH", "FROM", "VALUES", "TABLE", "SHOW", "DESCRIBE", "DESC", "EXPLAIN")
_COMMENT = re.compile(r"\s*(--[^\n]*\n|/\*.*?\*/)", re.DOTALL)


def check_reads(spark: SparkSession, statement: str) -> None:
    """Refuse a statement that could change what is published.

    Raises:
        InputError: it is not a query.
    """
    bare = statement
    while (comment := _COMMENT.match(bare)) is not None:
        bare = bare[comment.end() :]
    word = (re.findall(r"[A-Za-z]+", bare.lstrip("( \t\r\n")[:20]) or [""])[0].upper()
    parser: Any = spark._jsparkSession.sessionState().sqlParser()
    # WITH and FROM may begin an INSERT.
    if word not in _READS or (word in ("WITH", "FROM") and "InsertInto" in parser.parsePlan(bare).toString()):
        raise InputError(
            f"statements must read: {', '.join(_READS)}; got {word or 'nothing'}. Published tables are "
            "changed by jobs only"
        )


def run_query(spark: SparkSession, query: Query, arguments: dict[str, Any]) -> DataFrame:
    """The query's result; values travel as parameters, never as text."""
    check_reads(spark, query.text)
    return spark.sql(query.text, args=arguments) if arguments else spark.sql(query.text)

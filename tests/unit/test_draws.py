"""Every draw is keyed: nothing in the package or its SQL uses another source of chance."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

MODULES = {"random", "secrets", "uuid"}
# Spark's and pandas' draws, and ids that depend on the partitioning.
CALLS = {
    "rand", "randn", "randint", "randperm", "uniform_", "normal_", "shuffle", "sample", "sampleBy",
    "randomSplit", "monotonically_increasing_id", "spark_partition_id", "uuid", "uuid4", "default_rng",
    "manual_seed", "any_value", "first_value",
}  # fmt: skip
# hash() of a text differs from process to process.
BUILTINS = {"hash"}
SQL = re.compile(
    r"\b(rand|randn|random|uuid|shuffle|first|any_value|monotonically_increasing_id|tablesample)\s*\("
    r"|\bTABLESAMPLE\b",
    re.IGNORECASE,
)


def unkeyed(tree: ast.AST) -> Iterator[str]:
    """Sources of chance in a module, as `line: name`."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (f"{node.lineno}: import {n.name}" for n in names if n.name in MODULES)
            case ast.ImportFrom(module=module) if module in MODULES:
                yield f"{node.lineno}: from {module} import"
            case ast.Call(func=ast.Attribute(attr=name)) if name in CALLS:
                yield f"{node.lineno}: {name}()"
            case ast.Call(func=ast.Name(id=name)) if name in CALLS | BUILTINS:
                yield f"{node.lineno}: {name}()"
            case ast.Attribute(attr="random", value=ast.Name(id="np" | "numpy")):
                yield f"{node.lineno}: np.random"


@pytest.mark.parametrize(
    "source",
    [
        "import random",
        "from uuid import uuid4",
        "F.rand()",
        "df.sample(0.1)",
        "hash('a')",
        "np.random.rand(3)",
    ],
)
def test_the_lint_sees(source: str) -> None:
    assert list(unkeyed(ast.parse(source)))


def test_the_lint_lets_pass() -> None:
    assert not list(unkeyed(ast.parse("draw(seed, node)\nF.xxhash64('a')\nnp.sort(x)\nconfig_hash(a)")))


def test_package_and_jobs_draw_by_key_only() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{hit}"
        for path in [*ROOT.glob("lib/**/*.py"), *ROOT.glob("jobs/*.py")]
        for hit in unkeyed(ast.parse(path.read_text()))
    ]
    assert not found


def test_sql_draws_nothing() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in ROOT.glob("sql/**/*.sql")
        for line in path.read_text().splitlines()
        if not line.lstrip().startswith("--") and SQL.search(line)
    ]
    assert not found

"""The rooms of the package: lower ones never import higher ones, and none grows out of bounds."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

LIB = Path(__file__).resolve().parents[2] / "lib" / "walkbits"

LEVELS: tuple[tuple[str, ...], ...] = (
    ("__init__", "types", "errors", "faults"),
    ("rng", "settings", "spark_errors", "columns"),
    ("schemas", "session", "input_settings"),
    ("arrays",),
    ("tables",),
    ("network",),
    ("ingest", "graph"),
    ("walks",),
    ("models",),
    ("config",),
    ("config_file",),
    ("training", "inference", "index"),
    ("evaluation", "forecast"),
    ("runs",),
    ("stages",),
    ("cli",),
    ("tools",),
)
"""From the lowest to the highest. Rooms of one level do not import each other."""

MODULES = sorted(LIB.rglob("*.py"))
LARGEST_MODULE = 400


def room_of(dotted: str) -> str:
    """`walkbits.tables.store` -> `tables`."""
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imported(path: Path) -> set[str]:
    """Rooms that a module imports anywhere, also inside functions."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            rooms |= {room_of(one.name) for one in node.names if one.name.startswith("walkbits")}
        elif isinstance(node, ast.ImportFrom) and node.module == "walkbits":
            rooms |= {
                one.name if (LIB / one.name).is_dir() or (LIB / f"{one.name}.py").exists() else "__init__"
                for one in node.names
            }
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("walkbits."):
            rooms.add(room_of(node.module or ""))
    return rooms


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(LIB)))
def test_imports_point_downwards(path: Path) -> None:
    level = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}
    own = path.relative_to(LIB).with_suffix("").parts[0]
    wrong = {room for room in imported(path) - {own} if level[room] >= level[own]}
    assert not wrong, f"{own} (level {level[own]}) imports {sorted(wrong)}"


def test_every_room_has_a_level() -> None:
    rooms = {path.relative_to(LIB).with_suffix("").parts[0] for path in MODULES}
    assert rooms == {room for rooms in LEVELS for room in rooms}


def test_no_module_and_no_package_holds_too_much() -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {str(path): count for path, count in lines.items() if count > LARGEST_MODULE} == {}
    packages: dict[str, int] = {}
    for path, count in lines.items():
        if path.parent != LIB:
            packages[path.parent.name] = packages.get(path.parent.name, 0) + count
    total = sum(lines.values())
    assert {name: count for name, count in packages.items() if count > total * LARGEST_PACKAGE} == {}


LARGEST_PACKAGE = 0.1
"""Share of the package's lines that one room may hold."""

"""Outputs that are compared with the log: one that cannot be read differs, the others stand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from pyspark.errors import PySparkException
from walkbits.runs import stage
from walkbits.tables.store import Written

OUTPUTS = [Written(name, 3, "abc", 1, None) for name in ("nodes", "edges", "features")]


def reread(monkeypatch: pytest.MonkeyPatch, message: str) -> list[tuple[int, str]]:
    def fingerprints_of(frames: list[tuple[Any, Any]]) -> list[tuple[int, str]]:
        if any(table.name == "edges" for table, _ in frames):
            raise PySparkException(message)
        return [(3, "abc") for _ in frames]

    monkeypatch.setattr(stage, "fingerprints_of", fingerprints_of)
    store = SimpleNamespace(read=lambda table, **which: None)
    context: Any = SimpleNamespace(store=store, run_id="20260131-0a1b2c3d-a1")
    return stage._reread(context, OUTPUTS)


def test_a_lost_file_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = "[FAILED_READ_FILE.FILE_NOT_EXIST] Encountered error while reading file file:/x. SQLSTATE: KD001"
    assert reread(monkeypatch, lost) == [(3, "abc"), (-1, "unreadable"), (3, "abc")]


def test_a_defect_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PySparkException):
        reread(monkeypatch, "[INTERNAL_ERROR] something else")

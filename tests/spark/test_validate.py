"""`validate_inputs`: all problems of both tables at once, and the graph's counts."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from walkbits.config import Config
from walkbits.errors import InputError
from walkbits.stages.validate_inputs import report, validate

DAY = date(2026, 3, 8)
INTERACTIONS = """item,user,w,at
a,x,1,2026-03-08
a,y,0.5,2026-03-07T23:30:00-05:00
b,x,2,2026-03-09
ghost,x,1,2026-03-08
,x,1,2026-03-08
a,,1,2026-03-08
a,x,-1,2026-03-08
a,x,much,2026-03-08
a,x,,2026-03-08
a,x,1,31.01.2026
a,x,1,
"""
ITEMS = "item,price\na,1\nb,cheap\nb,2\n,3\nlonely,4\n"


def config_of(tmp_path: Path, interactions: str, items: str) -> Config:
    (tmp_path / "i.csv").write_text(interactions)
    (tmp_path / "items.csv").write_text(items)
    return Config.model_validate(
        {
            "root": str(tmp_path / "root"),
            "interactions": {
                "path": str(tmp_path / "i.csv"), "format": "csv", "item": "item", "context": "user",
                "weight": "w", "timestamp": "at",
            },
            "items": {
                "path": str(tmp_path / "items.csv"), "format": "csv", "item": "item", "numeric": ["price"],
            },
            "model": {"architecture": "lightgcn"},
        }
    )  # fmt: skip


def test_all_problems_of_both_tables_and_the_counts(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(tmp_path, INTERACTIONS, ITEMS)
    problems, counts = report(spark, config, DAY)
    found = {(p.section, p.what.split(" such as")[0]): p.rows for p in problems}
    assert found == {
        ("items", "no id"): 1,
        ("items", "price is no finite number"): 1,
        ("items", "id is not unique"): 2,
        ("interactions", "item is not in the item table"): 1,
        ("interactions", "no item id"): 1,
        ("interactions", "no context id"): 1,
        ("interactions", "no weight"): 1,
        ("interactions", "no timestamp"): 1,
        ("interactions", "weight is no finite number >= 0"): 2,
        ("interactions", "timestamp is not a time"): 1,
    }
    assert all(1 <= len(p.examples) <= 5 for p in problems)
    assert counts == [
        "interactions read: 11",
        "out of the window: 1",
        "set aside: 5",
        "broken: 3",
        "of weight 0: 0",
        "distinct items: 1",
        "distinct contexts: 2",
        "isolated items: 2",
        "weights: 0.5 to 1",
        "days read: 2026-03-08 to 2026-03-09",
    ]
    with pytest.raises(InputError):
        validate(spark, config, ds=DAY)
    assert "10 kinds of problems" in capsys.readouterr().out


def test_tables_that_cannot_be_read_are_both_named(spark: SparkSession, tmp_path: Path) -> None:
    problems, counts = report(spark, config_of(tmp_path, "item,user,w,at\na,x\n", "item,cost\na,1\n"), DAY)
    assert [p.section for p in problems] == ["items", "interactions"]
    assert "columns ['price'] must exist" in str(problems[0])
    assert "got 2 in line 2" in str(problems[1])
    assert counts == []


def test_weights_that_no_graph_can_hold_are_named(spark: SparkSession, tmp_path: Path) -> None:
    rows = [("a", "x", "1e-30"), ("a", "y", "9e5"), ("b", "x", "7e5"), ("b", "x", "4e5"), ("b", "y", "0")]
    text = "item,user,w,at\n" + "".join(",".join(row) + ",2026-03-08\n" for row in rows)
    problems, counts = report(spark, config_of(tmp_path, text, "item,price\na,1\nb,2\n"), DAY)
    assert [(p.what.split(",")[0], p.rows) for p in problems] == [
        ("weight is below 9.53674e-07", 1),
        ("pair weighs more than ingest.max_edge_weight", 1),
    ]
    assert problems[1].examples == ("'b' in 'x': 1.1e+06",)
    assert "of weight 0: 1" in counts
    assert "isolated items: 0" in counts


def test_nothing_in_the_window_and_a_model_without_features(spark: SparkSession, tmp_path: Path) -> None:
    config = config_of(tmp_path, "item,user,w,at\na,x,1,2031-01-01\n", "item,price\na,1\n")
    update = {"items": config.items.model_copy(update={"numeric": ()})} if config.items else {}
    bare = Config.model_validate(
        config.model_copy(update=update).model_dump() | {"model": {"architecture": "pinsage"}}
    )
    problems, counts = report(spark, bare, DAY)
    assert [p.section for p in problems] == ["model"]
    assert counts[:2] == ["interactions read: 1", "out of the window: 1"]
    assert counts[-1] == "days read: 2031-01-01 to 2031-01-01"

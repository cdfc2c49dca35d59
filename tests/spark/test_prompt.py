"""The SQL prompt on a session of its own views."""

import io
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from walkbits.tools.query import prompt


def session_with(spark: SparkSession, monkeypatch: pytest.MonkeyPatch, typed: str) -> None:
    spark.range(3).createOrReplaceTempView("published_numbers")
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    prompt(spark, ["published_numbers"])


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("SELECT max(id) AS largest\nFROM published_numbers;\n", "largest"),
        ("SELECT 40 + 2 AS answer", "42"),
        ("views\n", "published_numbers"),
        ("columns published_numbers\n", "bigint"),
        ("help\n", "run FILE"),
        ("SELEC 1;\nSELECT 'still here' AS s;\n", "still here"),
        ("SELECT nope FROM published_numbers;\nSELECT 'still here' AS s;\n", "still here"),
        ("SELECT 1 / 0;\nSELECT 'still here' AS s;\n", "still here"),
        ("run sql/queries/none.sql\n", "query must be a file"),
    ],
)
def test_what_is_typed_is_answered(
    spark: SparkSession,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    typed: str,
    told: str,
) -> None:
    session_with(spark, monkeypatch, typed)
    assert told in capsys.readouterr().out


def test_errors_are_short(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    session_with(spark, monkeypatch, "SELECT nope FROM published_numbers;\n")
    out = capsys.readouterr().out
    assert "UNRESOLVED_COLUMN" in out
    assert len(out.splitlines()) == 1


def test_quit_ends_before_what_follows(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    session_with(spark, monkeypatch, "quit\nSELECT 'too late';\n")
    assert "too late" not in capsys.readouterr().out


def test_file_with_arguments(
    spark: SparkSession,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    path = tmp_path / "q.sql"
    path.write_text(
        "-- Parameters: low  smallest id, e.g. 1\nSELECT id FROM published_numbers WHERE id >= :low;\n"
    )
    session_with(spark, monkeypatch, f"run {path} low=2\n")
    out = capsys.readouterr().out
    assert "|  2|" in out
    assert "|  1|" not in out


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM kept", "UPDATE kept SET id = 0", "INSERT INTO kept VALUES (7)", "DROP TABLE kept", "  -- c\n/* d */ TRUNCATE TABLE kept",
        "MERGE INTO kept USING kept AS k ON false WHEN NOT MATCHED THEN INSERT *", "WITH k AS (SELECT 1) INSERT INTO kept SELECT * FROM k",
        "FROM kept INSERT INTO kept SELECT *", "CREATE TABLE other AS SELECT 1", "OPTIMIZE kept", "SET spark.sql.ansi.enabled = false",
    ],
)  # fmt: skip
def test_published_rows_cannot_be_changed(
    spark: SparkSession,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    statement: str,
    tmp_path: Path,
) -> None:
    session_with(spark, monkeypatch, f"{statement};\n")
    assert "statements must read: SELECT" in capsys.readouterr().out
    path = tmp_path / "q.sql"
    path.write_text(f"-- Parameters: none\n{statement};\n")
    session_with(spark, monkeypatch, f"run {path}\n")
    assert "statements must read: SELECT" in capsys.readouterr().out


@pytest.mark.parametrize(
    "statement",
    ["(SELECT 7 AS n)", "WITH k AS (SELECT 7 AS n) SELECT n FROM k", "FROM VALUES (7) AS k(n) SELECT n", "-- how many\nVALUES (7)", "EXPLAIN SELECT 7"],
)  # fmt: skip
def test_every_way_to_read_works(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], statement: str
) -> None:
    session_with(spark, monkeypatch, f"{statement};\n")
    assert "7" in capsys.readouterr().out

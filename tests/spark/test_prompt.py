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

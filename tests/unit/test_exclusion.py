"""What a job refuses before it works, and how it names what happened to it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import world
from walkbits import cli
from walkbits.config import without_credentials
from walkbits.errors import ConfigError, InputError, LostRaceError, WalkbitsError
from walkbits.runs.log import RUN_ID_PATTERN, code_digest
from walkbits.spark_errors import recognised
from walkbits.tables.commits import check_exclusion, check_writable, predicate
from walkbits.tables.parquet import _upper


def session(**settings: str) -> Any:
    named = {key.replace("_", "."): value for key, value in settings.items()}
    return SimpleNamespace(conf=SimpleNamespace(get=lambda key, default: named.get(key, default)))


def test_s3_needs_exclusion_or_a_promise() -> None:
    for settings in ({}, {"spark_delta_logStore_s3a_impl": "io.delta.storage.S3SingleDriverLogStore"}):
        with pytest.raises(
            ConfigError, match="needs a Delta LogStore for several writers.*single_driver: true"
        ):
            check_exclusion(session(**settings), "s3a://bucket/x", single_driver=False)
    check_exclusion(session(), "s3a://bucket/x", single_driver=True)
    check_exclusion(
        session(spark_delta_logStore_s3a_impl="io.delta.storage.S3DynamoDBLogStore"), "s3a://b/x", False
    )
    for root in ("/data/walkbits", "data", "file:///data", "hdfs://h/x", "abfss://c@h/x", "gs://b/x"):
        check_exclusion(session(), root, single_driver=False)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("[DELTA_CONCURRENT_TRANSACTION] ConcurrentTransactionException: x", LostRaceError),
        ("Caused by: java.io.IOException: No space left on device", WalkbitsError),
        ("[FAILED_READ_FILE.NO_HINT] Encountered error while reading file file:///x", InputError),
        ("could not verify page integrity, CRC checksum verification failed", InputError),
        ("[DELTA_TRUNCATED_TRANSACTION_LOG] x: Unable to reconstruct state", InputError),
        ("walkbits.errors.ModelError: model file must be readable", InputError),
    ],
)
def test_a_known_cause_ends_in_a_sentence(text: str, kind: type[WalkbitsError]) -> None:
    known = recognised(RuntimeError(f"first line\n{text}\n\tat a.stack.Trace"))
    assert known is not None
    assert isinstance(known, kind)
    assert "stack" not in str(known)


def test_an_unknown_cause_stays_a_defect() -> None:
    assert recognised(KeyError("x")) is None
    assert recognised(error := InputError("x")) is error


def test_credentials_are_left_out_of_what_is_stored_and_printed() -> None:
    text = 'artifacts: s3://AKIA:topsecret@bucket/walkbits?region=eu, root: "s3a://k:p@b/x", at: a@b.example'
    shown = without_credentials(text)
    assert shown == 'artifacts: s3://bucket/walkbits?region=eu, root: "s3a://b/x", at: a@b.example'


def test_a_line_break_is_no_end(tmp_path: Path) -> None:
    assert not RUN_ID_PATTERN.fullmatch("20260131-0a1b2c3d-a1\n")
    with pytest.raises(InputError, match="run_id must match"):
        predicate({"run_id": "20260131-0a1b2c3d-a1\n"})


def test_the_code_is_part_of_a_run() -> None:
    again = [sys.executable, "-c", "from walkbits.runs.log import code_digest; print(code_digest())"]
    found = subprocess.run(again, capture_output=True, text=True, check=True, env=os.environ).stdout.strip()
    assert found == code_digest()
    assert len(found) == 64


def test_two_jobs_probe_one_root_at_once(tmp_path: Path) -> None:
    probe = f"from walkbits.tables.commits import check_writable\nfor _ in range(2000): check_writable({str(tmp_path)!r})"
    both = [subprocess.Popen([sys.executable, "-c", probe]) for _ in range(2)]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    check_writable(str(tmp_path))
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "value",
    [
        "a",
        "x" * 32,
        "x" * 33,
        "x" * 32 + "\U0010ffff" * 3,
        "x" * 32 + "\U0010ffff" * 3 + "y",
        "\U0010ffff" * 40,
    ],
)
def test_an_upper_bound_is_not_below_its_text(value: str) -> None:
    assert _upper(value) >= value


@pytest.mark.parametrize(("writes", "code", "worked"), [(True, 1, []), (False, 0, ["verified"])])
def test_a_reader_needs_no_root_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: bool, code: int, worked: list[str]
) -> None:
    """A root below a file cannot be made, by nobody."""
    (tmp_path / "file").touch()
    config = world.write_config(tmp_path, tmp_path / "inputs", tmp_path / "file" / "root")
    seen: list[str] = []
    monkeypatch.setattr(cli, "get_session", lambda _name: SimpleNamespace(stop=lambda: None))
    parser = cli.job_parser("verify", "")
    assert (
        cli.run_job(parser, ["--config", str(config)], lambda *_: seen.append("verified"), writes=writes)
        == code
    )
    assert seen == worked

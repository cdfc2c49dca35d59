"""Errors keep their class and sentence on the way out of a Python worker."""

from __future__ import annotations

import pytest
from walkbits.cli import add_day_flags, exit_code, job_parser
from walkbits.errors import InputError, ModelError, WalkbitsError
from walkbits.spark_errors import recognised

FROM_SPARK = """An exception was thrown from the Python worker. Please see the stack trace below.
Traceback (most recent call last):
  File "convolving.py", line 1, in run
{name}: item_from_item: neighbors must be indices below 3, got 0 to 7
"""


def test_a_workers_error_is_the_same_error_again() -> None:
    error = recognised(RuntimeError(FROM_SPARK.format(name="walkbits.errors.ModelError")))
    assert type(error) is ModelError
    assert str(error) == "item_from_item: neighbors must be indices below 3, got 0 to 7"


@pytest.mark.parametrize("name", ["ValueError", "walkbits.errors.annotations", "walkbits.errors.Unknown"])
def test_a_defect_stays_one(name: str) -> None:
    assert recognised(RuntimeError(FROM_SPARK.format(name=name))) is None


def test_a_command_ends_with_the_code_of_the_error() -> None:
    def fail(error: Exception) -> None:
        raise error

    assert exit_code(lambda: None) == 0
    assert exit_code(lambda: fail(InputError("no"))) == 2
    assert exit_code(lambda: fail(RuntimeError(FROM_SPARK.format(name="walkbits.errors.ModelError")))) == 8
    with pytest.raises(ZeroDivisionError):
        exit_code(lambda: fail(ZeroDivisionError()))


def test_a_full_disk_is_a_sentence() -> None:
    error = recognised(
        RuntimeError("trace\n" * 850 + "Caused by: java.io.IOException: No space left on device\n")
    )
    assert type(error) is WalkbitsError
    assert "a disk is full" in str(error)
    assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize("flags", [["--nothing"], ["--ds", "31.01.2026"], ["--root"]])
def test_a_broken_flag_ends_with_the_code_of_a_broken_setting(flags: list[str]) -> None:
    parser = job_parser("run_daily", None)
    add_day_flags(parser)
    with pytest.raises(SystemExit) as caught:
        parser.parse_intermixed_args(flags)
    assert caught.value.code == 6

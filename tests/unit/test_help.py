"""`--help` of every job, word for word: a change of flags or wording shows in the review.

UPDATE_HELP=1 pytest tests/unit/test_help.py        writes the files anew
"""

import os
from pathlib import Path

import pytest
from support.jobs import JOBS, parser_of

HELP = Path(__file__).parent / "help"


@pytest.mark.parametrize("job", JOBS, ids=lambda job: str(job.stem))
def test_help_is_as_reviewed(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    printed, file = parser_of(job).format_help(), HELP / f"{job.stem}.txt"
    if "UPDATE_HELP" in os.environ:
        file.write_text(printed, encoding="utf-8")
    assert printed == file.read_text(encoding="utf-8"), "write it anew: UPDATE_HELP=1 pytest " + __file__


def test_every_file_belongs_to_a_job() -> None:
    assert {file.stem for file in HELP.iterdir()} == {job.stem for job in JOBS}

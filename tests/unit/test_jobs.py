"""Jobs name the function they call: it exists, and takes the job's flags."""

import inspect
import re
from pathlib import Path

import pytest
from support.jobs import JOBS, parser_of
from walkbits.cli import COMMON_FLAGS, imported

NAMED = re.compile(r'run_job\(build_parser\(\), argv, "([\w.]+:\w+)"')


@pytest.mark.parametrize("job", JOBS, ids=lambda job: str(job.stem))
def test_the_function_of_a_job_takes_its_flags(job: Path) -> None:
    named = NAMED.search(job.read_text())
    if named is None:
        assert job.stem in ("doctor", "query")  # these have their own
        return
    flags = {one.dest: None for one in parser_of(job)._actions if one.dest not in {*COMMON_FLAGS, "help"}}
    function = imported(named[1])
    more = {"name": ""} if named[1].endswith(":run_stage") else {}
    inspect.signature(function).bind("spark", "config", **more, **flags)

"""The jobs' files and their parsers, without running them."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

JOBS = sorted((Path(__file__).resolve().parents[2] / "jobs").glob("*.py"))


def parser_of(job: Path) -> argparse.ArgumentParser:
    """The flags of a job."""
    spec = importlib.util.spec_from_file_location(f"job_{job.stem}", job)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    parser = module.build_parser()
    assert isinstance(parser, argparse.ArgumentParser)
    return parser

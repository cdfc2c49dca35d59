"""Run the trained model over the whole graph, layer by layer: every node once per layer.

Reads the run's features, neighborhoods and model; commits one table partition per
layer and the embeddings. A killed job goes on at its first unfinished stage.
"""

from __future__ import annotations

import argparse
import sys

from walkbits.cli import add_run_flags, job_parser, run_job
from walkbits.stages import run_stage


def build_parser() -> argparse.ArgumentParser:
    """The job's flags."""
    parser = job_parser("infer_layers", __doc__)
    add_run_flags(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the stage; returns the exit code."""
    return run_job(build_parser(), argv, lambda job: run_stage(job, "infer_layers"))


if __name__ == "__main__":
    sys.exit(main())

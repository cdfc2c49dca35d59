"""Run the trained model over the whole graph, layer by layer: every node once per layer.

Reads the run's features, neighborhoods and model; commits one table partition per
layer and the embeddings. A killed job goes on at its first unfinished stage.

--explain prints, before anything runs, the layers, the bytes that hosts map and the bytes
that are shuffled; `inference.cache_bytes` moves the line between them.
"""

from __future__ import annotations

import argparse
import sys

from walkbits.cli import add_explain_flag, add_run_flags, job_parser, run_job


def build_parser() -> argparse.ArgumentParser:
    """The job's flags."""
    parser = job_parser("infer_layers", __doc__)
    add_run_flags(parser)
    add_explain_flag(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the stage; returns the exit code."""
    return run_job(build_parser(), argv, "walkbits.stages.daily:run_stage", name="infer_layers")


if __name__ == "__main__":
    sys.exit(main())

"""Train the model on a sampled subgraph of the run and save weights and card."""

from __future__ import annotations

import argparse
import sys

from walkbits.cli import add_run_flags, job_parser, run_job


def build_parser() -> argparse.ArgumentParser:
    """The job's flags."""
    parser = job_parser("train_model", __doc__)
    add_run_flags(parser)
    parser.add_argument(
        "--retrain", action=argparse.BooleanOptionalAction, default=False,
        help="train where retrain.every_days took over the published model, on features computed anew",
    )  # fmt: skip
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the stage; returns the exit code."""
    return run_job(build_parser(), argv, "walkbits.stages.daily:train")


if __name__ == "__main__":
    sys.exit(main())

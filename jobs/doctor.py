"""Print versions, jars, settings and a Delta round trip; for each problem the command that fixes it."""

import argparse
import sys
from pathlib import Path

from pyspark.sql import SparkSession
from walkbits.cli import config_from, job_parser
from walkbits.errors import WalkbitsError
from walkbits.tools.doctor import examine, healthy, report


def build_parser() -> argparse.ArgumentParser:
    """Flags of the job."""
    return job_parser("doctor", __doc__)


def main(argv: list[str] | None = None) -> int:
    """0 when all that is required is well, 1 otherwise."""
    args = build_parser().parse_args(argv)
    try:
        config = config_from(args)
    except WalkbitsError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    # Not walkbits.session: that one refuses to start on the problems to be reported here.
    spark = SparkSession.builder.appName("doctor").getOrCreate()
    findings = examine(spark, config.root, Path(__file__).resolve().parent.parent)
    spark.stop()
    sys.stdout.write(report(findings))
    return 0 if healthy(findings) else 1


if __name__ == "__main__":
    sys.exit(main())

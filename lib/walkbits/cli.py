"""What every job shares: flags, logging, the session, and errors to exit codes."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from importlib import import_module
from typing import Any, Final, NoReturn

import yaml

from walkbits.arrays.places import check_reachable
from walkbits.config import Config, artifacts_of, without_credentials
from walkbits.config_file import load_config, parse_yaml
from walkbits.errors import ConfigError
from walkbits.session import get_session
from walkbits.spark_errors import recognised
from walkbits.tables.commits import check_exclusion, check_writable

LOG = logging.getLogger("walkbits")
DEFAULT_CONFIG = "conf/demo.yaml"
COMMON_FLAGS: Final = frozenset({"config", "model", "root", "channel", "overrides", "print_config"})
"""Those of `job_parser`."""


class _Parser(argparse.ArgumentParser):
    """Ends with the code of a broken flag, which is not that of bad input."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(ConfigError.exit_code, f"{self.prog}: error: {message}\n")


def job_parser(job: str, description: str | None) -> argparse.ArgumentParser:
    """The flags that every job takes."""
    parser = _Parser(
        prog=f"spark-submit jobs/{job}.py",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config", default=DEFAULT_CONFIG, help="YAML of the environment (default: %(default)s)"
    )
    parser.add_argument(
        "--model",
        metavar="FILE",
        help="YAML of a model, e.g. conf/models/item_pool.yaml; laid over the config",
    )
    parser.add_argument("--root", help="folder or URI of the tables; overrides the config")
    parser.add_argument("--channel", help="publication channel; overrides the config")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
        help="override one key of the config, e.g. walks.num_walks=200; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--print-config", action="store_true", help="print the configuration in force and stop"
    )
    return parser


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of jobs that work on an existing run."""
    parser.add_argument("--run-id", help="run to work on (default: the run that changed last)")
    parser.add_argument("--ds", type=parse_ds, help="day of the run, YYYY-MM-DD; narrows the default")
    parser.add_argument("--label", help="work on the run that was opened last under this label")


def add_explain_flag(parser: argparse.ArgumentParser) -> None:
    """Flag of jobs that can print their plan."""
    parser.add_argument(
        "--explain", action="store_true", help="print the plan, its bytes and its time, and stop"
    )


def add_day_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of jobs that open a run."""
    parser.add_argument("--ds", type=parse_ds, help="day of the run, YYYY-MM-DD (default: today in UTC)")
    parser.add_argument(
        "--new-attempt", action=argparse.BooleanOptionalAction, default=False,
        help="start a further run even if these inputs have one",
    )  # fmt: skip
    parser.add_argument("--label", help="name by which later jobs of one workflow find the run")
    parser.add_argument(
        "--allow-future", action="store_true", help="open a run of a day that is more than 3 days ahead"
    )


def add_publish_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of jobs that publish."""
    parser.add_argument(
        "--allow-rollback",
        action="store_true",
        help="publish even if the channel shows a later day, or if it has shown this run and then another",
    )


def parse_ds(text: str) -> date:
    """A day as YYYY-MM-DD and nothing else."""
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).date()
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be a day as YYYY-MM-DD, got {text!r}") from error


def config_from(args: argparse.Namespace) -> Config:
    """The config file with the flags laid over it.

    Raises:
        ConfigError: a broken file, key or flag.
    """
    overrides: dict[str, Any] = {}
    for pair in args.overrides:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise ConfigError(f"--set must be KEY=VALUE, got {pair!r}; e.g. --set walks.num_walks=200")
        try:
            overrides[key] = parse_yaml(value)
        except ValueError as error:
            raise ConfigError(f"--set {key} must be a YAML value, got {value!r}") from error
    if args.root is not None:
        overrides["root"] = args.root
    if args.channel is not None:
        overrides["channel"] = args.channel
    return load_config(args.config, overrides, args.model)


def run_job(
    parser: argparse.ArgumentParser,
    argv: list[str] | None,
    body: str | Callable[..., object],
    *,
    writes: bool = True,
    **fixed: Any,
) -> int:
    """Parse, load, start Spark, run the body, print its text; turn a WalkbitsError into its exit code.

    Args:
        body: Called with the session, the config and, by their names, the flags beyond those of `job_parser`;
            as `module:function` it is imported while Spark starts, which takes as long.
        writes: Otherwise the root may be one that can only be read.
        **fixed: Further arguments of the body.

    Returns:
        The process's exit code: 0, or that of the error's class (see errors.py).
    """
    args = parser.parse_intermixed_args(argv)  # a query's values may follow other flags
    flags = {name: value for name, value in vars(args).items() if name not in COMMON_FLAGS}

    def work() -> None:
        config = config_from(args)
        if args.print_config:
            text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
            sys.stdout.write(without_credentials(text))
            return
        if writes:
            check_writable(config.root)
            check_reachable(artifacts_of(config))
        with ThreadPoolExecutor(1) as beside:
            called = beside.submit(imported, body)
            spark = get_session(parser.prog.split("/")[-1].removesuffix(".py"))
        try:
            if writes:
                check_exclusion(spark, config.root, config.single_driver)
            said = called.result()(spark, config, **fixed, **flags)
            if isinstance(said, str):
                sys.stdout.write(said)
        finally:
            spark.stop()

    _die_with_parent()
    return exit_code(work)


def imported(body: str | Callable[..., object]) -> Callable[..., object]:
    """The function of `module:function`, or the one given."""
    if not isinstance(body, str):
        return body
    module, function = body.split(":")
    return getattr(import_module(module), function)  # type: ignore[no-any-return]


def exit_code(work: Callable[[], object]) -> int:
    """Do the work of a command under the common log; its exit code.

    Returns:
        0, or the code of the WalkbitsError that `recognised` makes of what was raised; its message is logged.
    """
    configure_logging()
    try:
        work()
    except Exception as error:
        known = recognised(error)
        if known is None:
            raise
        LOG.error("%s: %s", type(known).__name__, known)
        return known.exit_code
    return 0


def configure_logging() -> None:
    """One line per event on stderr: time, level, `key=value` pairs."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    LOG.handlers[:] = [handler]
    LOG.setLevel(logging.INFO)
    LOG.propagate = False
    # Spark logs every failed query once more, as JSON with a stack trace.
    logging.getLogger("SQLQueryContextLogger").setLevel(logging.CRITICAL)


def _die_with_parent() -> None:
    """End this driver when spark-submit's JVM is gone: a killed job must not go on publishing."""
    if "PYSPARK_GATEWAY_PORT" not in os.environ:
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(86)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()

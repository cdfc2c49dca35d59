"""What the walkbits DAGs share: how a job is submitted, and what happens when one fails.

Settings come from the environment of the Airflow components; nothing is read from disk or network
while the DAG files are parsed:

    WALKBITS_HOME            checkout on the workers, after `make setup`   (this folder's parent)
    WALKBITS_CONFIG          YAML of the environment                       (conf/production.yaml)
    WALKBITS_PYTHON          interpreter of the executors                  (that of the checkout)
    WALKBITS_SPARK_CONF      Spark settings of this installation as JSON, e.g.
                             {"spark.executor.memory": "16g"}              (none)
    WALKBITS_PY_FILES        zip for clusters without the package          (none)
    WALKBITS_SPARK_CONN      Airflow connection with the Spark master      (spark_default)
    WALKBITS_POOL            pool that every job takes one slot of         (default_pool)
    WALKBITS_RETRY_SECONDS   wait before the first retry                   (300)
    WALKBITS_TIMEOUT_HOURS   longest a job may take                        (12)
    WALKBITS_DEADLINE_HOURS  longest a day may take; 0 for no deadline     (20)
    WALKBITS_WEBHOOK         where alerts are posted as JSON               (none: they are logged)
"""

from __future__ import annotations

import json
import logging
import os
import re
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.exceptions import AirflowException
from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import Asset, AsyncCallback, DeadlineAlert, DeadlineReference, Param
from airflow.sdk.exceptions import AirflowFailException

LOG = logging.getLogger(__name__)

HOME = os.environ.get("WALKBITS_HOME", str(Path(__file__).parent.parent))
CONFIG = os.environ.get("WALKBITS_CONFIG", f"{HOME}/conf/production.yaml")
PYTHON = f"{HOME}/.venv/bin/python"
SPARK_CONF: dict[str, str] = json.loads(os.environ.get("WALKBITS_SPARK_CONF", "{}"))
RETRY = timedelta(seconds=int(os.environ.get("WALKBITS_RETRY_SECONDS", "300")))
TIMEOUT = timedelta(hours=float(os.environ.get("WALKBITS_TIMEOUT_HOURS", "12")))
DEADLINE = timedelta(hours=float(os.environ.get("WALKBITS_DEADLINE_HOURS", "20")))

START = datetime(2000, 1, 1, tzinfo=UTC)
"""Before any day of anyone's data: Airflow runs no task before it, and nothing is caught up."""

PUBLISHED = Asset("walkbits_live")
"""Updated whenever readers of channel `live` see another run: schedule consumers on it."""

FINAL = frozenset({2, 5, 6, 7, 8, 9})
"""Exit codes of what stays as it is: input, audit, settings, jars, model, training. An empty day may still
arrive (3), another driver ends (4), and infrastructure recovers (1, 86)."""

# Not $, which lets a line break pass.
DAY = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}\Z"
RUN_ID = r"^[0-9]{8}-[0-9a-f]{8}-a[0-9]{1,3}\Z"


def day_param(meaning: str, **schema: Any) -> Param:
    """A day as YYYY-MM-DD."""
    return Param(description=meaning, **({"type": "string", "format": "date", "pattern": DAY} | schema))


class SubmitJob(SparkSubmitOperator):
    """Fails at once where a retry cannot help: by the job's exit code."""

    def execute(self, context: Any) -> None:
        """Submit and wait."""
        try:
            super().execute(context)
        except AirflowException as error:
            code = re.search(r"Error code is: ([0-9]+)", str(error))
            if code is not None and int(code[1]) in FINAL:
                raise AirflowFailException(str(error)) from error
            raise


def submit(task_id: str, job: str, *arguments: str, **more: Any) -> SubmitJob:
    """One job of jobs/ as a task.

    Paths are absolute because a worker's folder is its own. Only values of checked Params and of
    Airflow itself reach the arguments, and those alone are templated; there is no shell in between.
    """
    return SubmitJob(task_id=task_id, **job_arguments(job, *arguments), **(task_arguments() | more))


def job_arguments(job: str, *arguments: str) -> dict[str, Any]:
    """The operator's arguments that say what is submitted."""
    return {
        "name": f"walkbits {job}",
        "application": f"{HOME}/jobs/{job}.py",
        "application_args": ["--config", CONFIG, *arguments],
        "conn_id": os.environ.get("WALKBITS_SPARK_CONN", "spark_default"),
        "spark_binary": f"{HOME}/.venv/bin/spark-submit",
        "properties_file": f"{HOME}/conf/spark-defaults.conf",
        "conf": {"spark.jars": f"{HOME}/.cache/jars/*.jar", "spark.ui.showConsoleProgress": "false"}
        | SPARK_CONF,
        "py_files": os.environ.get("WALKBITS_PY_FILES"),
        "env_vars": {
            "JAVA_HOME": f"{HOME}/.cache/java",
            "PYSPARK_DRIVER_PYTHON": PYTHON,
            "PYSPARK_PYTHON": os.environ.get("WALKBITS_PYTHON", PYTHON),
        },
    }


def task_arguments() -> dict[str, Any]:
    """Retries, limits and alerts of one task."""
    return {
        "retries": 2,
        "retry_delay": RETRY,
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(hours=1),
        "execution_timeout": TIMEOUT,
        "pool": os.environ.get("WALKBITS_POOL", "default_pool"),
        "on_failure_callback": task_failed,
    }


def deadline() -> DeadlineAlert | None:
    """An alert when a day is not through in time, counted from when it was queued.

    `airflow dags test` of Airflow 3.3 fails on any DAG with a deadline: set 0 there.
    """
    if not DEADLINE:
        return None
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=DEADLINE,
        callback=AsyncCallback(deadline_missed),
        name="walkbits day",
    )


def task_failed(context: dict[str, Any]) -> None:
    """The last try of a task failed."""
    task = context["ti"]
    alert(
        f"walkbits: {task.dag_id}.{task.task_id} failed after {task.try_number} tries, "
        f"run {task.run_id}: {context.get('exception')}; see docs/operations.md"
    )


async def deadline_missed(**context: Any) -> None:
    """A day took longer than WALKBITS_DEADLINE_HOURS."""
    alert(f"walkbits: the day is not published after {DEADLINE}; what readers see is unchanged")


def alert(text: str) -> None:
    """Log one sentence, and post it where WALKBITS_WEBHOOK says; a deaf webhook breaks nothing."""
    LOG.error("%s", text)
    url = os.environ.get("WALKBITS_WEBHOOK")
    if not url:
        return
    request = urllib.request.Request(
        url, json.dumps({"text": text}).encode(), {"Content-Type": "application/json"}
    )
    try:
        urllib.request.urlopen(request, timeout=10).close()
    except OSError as error:
        LOG.warning("alert webhook: %s", error)

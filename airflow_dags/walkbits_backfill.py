"""By hand: compute past days again, each into a channel of its own, `ds=<day>`.

Readers of `live` see nothing of it. Each day is one job that runs every stage in one session; days
run one after the other, and a day that its channel shows already is a no-op.
"""

from __future__ import annotations

from datetime import date, timedelta

from airflow.sdk import DAG, Param, task
from airflow.sdk.exceptions import AirflowFailException
from walkbits_tasks import CONFIG, START, SubmitJob, day_param, job_arguments, task_arguments

LONGEST = 366

with DAG(
    dag_id="walkbits_backfill",
    description="Past days into channels of their own; live is not touched",
    doc_md=__doc__,
    schedule=None,
    start_date=START,
    max_active_runs=1,
    tags=["walkbits"],
    params={
        "first": day_param("First day"),
        "last": day_param("Last day"),
        "new_attempt": Param(False, type="boolean", description="Start over, even if a day is done"),
    },
) as dag:

    @task
    def days(params: dict[str, object] | None = None) -> list[list[str]]:
        """The job's arguments for every day from first to last."""
        given = params or {}
        first, last = (date.fromisoformat(str(given[name])) for name in ("first", "last"))
        count = (last - first).days + 1
        if not 1 <= count <= LONGEST:
            raise AirflowFailException(
                f"last must be 0 to {LONGEST - 1} days after first, got {first} and {last}; give other days"
            )
        attempt = "--new-attempt" if given["new_attempt"] else "--no-new-attempt"
        wanted = [str(first + timedelta(days=i)) for i in range(count)]
        return [["--config", CONFIG, "--ds", ds, "--channel", f"ds={ds}", attempt] for ds in wanted]

    submitted = {
        name: value for name, value in job_arguments("run_daily").items() if name != "application_args"
    }
    SubmitJob.partial(task_id="run_day", max_active_tis_per_dagrun=1, **submitted, **task_arguments()).expand(
        application_args=days()
    )

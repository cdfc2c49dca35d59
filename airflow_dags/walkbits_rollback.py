"""By hand: show an earlier publication again, in one commit. Takes seconds and computes nothing."""

from __future__ import annotations

from airflow.sdk import DAG, Param
from walkbits_tasks import PUBLISHED, RUN_ID, START, submit

with DAG(
    dag_id="walkbits_rollback",
    description="Point live back at an earlier run",
    doc_md=__doc__,
    schedule=None,
    start_date=START,
    max_active_runs=1,
    tags=["walkbits"],
    params={
        "run_id": Param(
            "previous", type="string", pattern=f"^previous$|{RUN_ID}",
            description="Run to show; `previous` is the one before the present",
        )
    },
) as dag:  # fmt: skip
    # A rollback that ended late and is tried again would go back to the run it left.
    submit("rollback", "rollback_run", "--run-id", "{{ params.run_id }}", retries=0, outlets=[PUBLISHED])

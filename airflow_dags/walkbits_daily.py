"""Every day: the interactions of one day become a published run.

The tasks find their common walkbits run by a label, the DAG run's id; the run's own id comes from the
data, so a retry or a cleared task goes on where the run stands, and a day that is published is a no-op.
"""

from __future__ import annotations

from airflow.sdk import DAG, CronDataIntervalTimetable, Param, chain
from walkbits_tasks import PUBLISHED, START, day_param, deadline, submit

DS = "{{ params.ds or (data_interval_start | ds) }}"
RUN = ("--ds", DS, "--label", "{{ run_id }}")

with DAG(
    dag_id="walkbits_daily",
    description="Interactions of a day to published embeddings, codes and related items",
    doc_md=__doc__,
    # Not "@daily": its interval is empty, and ds would be the day that has just begun.
    schedule=CronDataIntervalTimetable("@daily", timezone="UTC"),
    start_date=START,
    catchup=False,
    max_active_runs=1,
    render_template_as_native_obj=False,
    deadline=deadline(),
    tags=["walkbits"],
    params={
        "ds": day_param("Day to process; empty takes the DAG run's", default=None, type=["null", "string"]),
        "retrain": Param(False, type="boolean", description="Train even if the model is young enough"),
        "new_attempt": Param(False, type="boolean", description="Start over, even if the day is done"),
    },
) as dag:
    chain(
        submit(
            "validate", "validate_inputs", *RUN,
            "{{ '--new-attempt' if params.new_attempt else '--no-new-attempt' }}",
        ),
        submit("ingest", "ingest_graph", *RUN),
        submit("neighborhoods", "build_neighborhoods", *RUN),
        submit("train", "train_model", *RUN, "{{ '--retrain' if params.retrain else '--no-retrain' }}"),
        submit("infer_layers", "infer_layers", *RUN),
        submit("build_index", "build_index", *RUN),
        submit("audit", "audit_run", *RUN),
        submit("publish", "publish_run", *RUN, outlets=[PUBLISHED]),
        submit("maintain", "maintain_tables"),
        submit("verify", "verify"),
    )  # fmt: skip

"""The DAG files as Airflow sees them: they parse alone, render, and submit exactly these commands."""

from __future__ import annotations

import ast
import copy
import json
import os
import sys
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip(
    "airflow.dag_processing.dagbag", reason="Airflow has an environment of its own: make test-airflow"
)

from airflow.dag_processing.dagbag import DagBag
from airflow.exceptions import AirflowException
from airflow.sdk.exceptions import AirflowFailException, ParamValidationError

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "airflow_dags"
GOLDEN = Path(__file__).parent / "golden"
STAMP = datetime(2026, 1, 31, tzinfo=UTC)
DAILY = [
    "validate",
    "ingest",
    "neighborhoods",
    "train",
    "infer_layers",
    "build_index",
    "audit",
    "publish",
    "maintain",
    "verify",
]


@pytest.fixture(scope="module")
def dags() -> dict[str, Any]:
    sys.path.insert(0, str(FOLDER))
    bag = DagBag(str(FOLDER))
    assert bag.import_errors == {}
    return dict(bag.dags)


def rendered(operator: Any, **params: Any) -> Any:
    """A copy of the operator with its templates filled as the scheduler would."""
    copy = operator.prepare_for_execution()
    values = operator.dag.params.dump() | params
    context = {"run_id": "scheduled__2026-01-31", "data_interval_start": STAMP, "params": values}
    copy.render_template_fields(context)
    return copy


def argv(operator: Any) -> list[str]:
    """The command; the one place that touches the provider's private parts."""
    return list(operator._get_hook()._build_spark_submit_command(operator.application))


def test_folder_imports_only_airflow_and_the_standard_library() -> None:
    allowed = set(sys.stdlib_module_names) | {"airflow", "walkbits_tasks"}
    for path in FOLDER.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
        imported += [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
        assert {name.split(".")[0] for name in imported} <= allowed, path


def test_neither_torch_nor_walkbits_is_here(dags: dict[str, Any]) -> None:
    assert not {"torch", "walkbits", "pyspark.sql"} & set(sys.modules)


def test_dags_and_their_tasks_in_order(dags: dict[str, Any]) -> None:
    assert set(dags) == {"walkbits_daily", "walkbits_backfill", "walkbits_rollback"}
    assert [task.task_id for task in dags["walkbits_daily"].topological_sort()] == DAILY
    for before, after in pairwise(DAILY):
        assert dags["walkbits_daily"].get_task(after).upstream_task_ids == {before}
    assert [t.task_id for t in dags["walkbits_backfill"].topological_sort()] == ["days", "run_day"]
    assert dags["walkbits_rollback"].task_ids == ["rollback"]


def test_schedule_and_limits(dags: dict[str, Any]) -> None:
    daily = dags["walkbits_daily"]
    assert not daily.catchup
    assert daily.max_active_runs == 1
    assert daily.deadline
    assert all(task.retries == 2 for task in daily.tasks)
    assert all(task.execution_timeout and task.on_failure_callback for task in daily.tasks)
    assert [asset.name for asset in daily.get_task("publish").outlets] == ["walkbits_live"]
    assert [asset.name for asset in dags["walkbits_rollback"].get_task("rollback").outlets] == [
        "walkbits_live"
    ]
    assert not any(task.outlets for task in dags["walkbits_backfill"].tasks)


def test_every_task_submits_its_golden_command(dags: dict[str, Any]) -> None:
    """REBUILD=1 writes the files anew."""
    operators = [*dags["walkbits_daily"].tasks, dags["walkbits_rollback"].get_task("rollback")]
    seen = {operator.task_id: argv(rendered(operator)) for operator in operators}
    path = GOLDEN / "spark_submit.json"
    if os.environ.get("REBUILD"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(seen, indent=2) + "\n", encoding="utf-8")
    assert seen == json.loads(path.read_text(encoding="utf-8"))


def test_no_template_is_left_and_jobs_exist(dags: dict[str, Any]) -> None:
    for operator in dags["walkbits_daily"].tasks:
        command = argv(rendered(operator))
        assert not [word for word in command if "{{" in word or "{%" in word]
        assert (ROOT / "jobs" / Path(operator.application).name).is_file()


@pytest.mark.parametrize(
    ("params", "flag"),
    [({"retrain": True}, "--retrain"), ({}, "--no-retrain")],
)
def test_retrain_reaches_the_job(dags: dict[str, Any], params: dict[str, Any], flag: str) -> None:
    assert argv(rendered(dags["walkbits_daily"].get_task("train"), **params))[-1] == flag


def test_a_day_by_hand_wins_over_the_interval(dags: dict[str, Any]) -> None:
    command = argv(rendered(dags["walkbits_daily"].get_task("ingest"), ds="2026-01-05"))
    assert command[command.index("--ds") + 1] == "2026-01-05"


BAD = [
    ("walkbits_daily", {"ds": "yesterday"}),
    ("walkbits_daily", {"ds": "2026-01-05 --root /etc"}),
    ("walkbits_daily", {"retrain": "yes"}),
    ("walkbits_backfill", {"first": "2026-1-5", "last": "2026-01-05"}),
    ("walkbits_backfill", {"first": "2026-01-05"}),
    ("walkbits_rollback", {"run_id": "x; rm -rf /"}),
    ("walkbits_rollback", {"run_id": "20260131-0a1b2c3d"}),
]


def with_params(dag: Any, params: dict[str, Any]) -> dict[str, Any]:
    """The DAG's params as a run with this configuration gets them."""
    given = copy.deepcopy(dag.params)
    given.update(params)
    return dict(given.validate())


@pytest.mark.parametrize(("dag_id", "params"), BAD)
def test_bad_params_are_refused(dags: dict[str, Any], dag_id: str, params: dict[str, Any]) -> None:
    with pytest.raises(ParamValidationError, match=r"Invalid input for param|No value passed"):
        with_params(dags[dag_id], params)


def test_backfill_has_one_channel_a_day(dags: dict[str, Any]) -> None:
    days = dags["walkbits_backfill"].get_task("days").python_callable
    commands = days({"first": "2026-02-27", "last": "2026-03-01", "new_attempt": False})
    assert [command[2:6] for command in commands] == [
        ["--ds", day, "--channel", f"ds={day}"] for day in ("2026-02-27", "2026-02-28", "2026-03-01")
    ]
    with pytest.raises(AirflowFailException, match="0 to 365 days after first"):
        days({"first": "2026-03-01", "last": "2026-02-27", "new_attempt": False})


@pytest.mark.parametrize(
    ("code", "final"), [(1, False), (2, True), (3, False), (4, False), (5, True), (8, True), (9, True)]
)
def test_what_stays_as_it_is_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, dags: dict[str, Any], code: int, final: bool
) -> None:
    """The provider's message, as its hook writes it for a job that ends with a code."""
    import walkbits_tasks

    def ends(*_: Any) -> None:
        raise AirflowException(f"Cannot execute: ['spark-submit', 'x.py']. Error code is: {code}.")

    monkeypatch.setattr(walkbits_tasks.SparkSubmitOperator, "execute", ends)
    with pytest.raises(AirflowException) as raised:
        dags["walkbits_daily"].get_task("audit").execute({})
    assert isinstance(raised.value, AirflowFailException) == final


def test_alerts_are_logged_and_posted(
    monkeypatch: pytest.MonkeyPatch, dags: dict[str, Any], caplog: Any
) -> None:
    import walkbits_tasks

    posted: list[Any] = []

    class Answer:
        def close(self) -> None: ...

    def post(request: Any, timeout: float) -> Answer:
        posted.append((request.full_url, json.loads(request.data)))
        return Answer()

    monkeypatch.setattr(walkbits_tasks.urllib.request, "urlopen", post)
    walkbits_tasks.alert("one")
    assert not posted
    monkeypatch.setenv("WALKBITS_WEBHOOK", "http://alerts.example/hook")
    walkbits_tasks.alert("two")
    assert posted == [("http://alerts.example/hook", {"text": "two"})]

    def deaf(request: Any, timeout: float) -> Answer:
        raise OSError("no route")

    monkeypatch.setattr(walkbits_tasks.urllib.request, "urlopen", deaf)
    walkbits_tasks.alert("three")

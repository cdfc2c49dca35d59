"""The page and the table that operators read."""

import xml.etree.ElementTree as ET
from datetime import date, datetime

from pyspark.sql import Row
from walkbits.runs.page import bars, line_chart, page
from walkbits.tools.list_runs import as_table, list_runs

RUN = {
    "run_id": "20260131-0a1b2c3d-a1", "ds": date(2026, 1, 31), "state": "failed", "stages": "ingest_graph train_model",
    "seconds": 12.5, "shown": "", "changed_at": datetime(2026, 1, 31, 3, 0), "detail": "audit.min_cosine: <low> & bad",
}  # fmt: skip
DRIFT = [
    {"ds": date(2026, 1, 30 + i), "run_id": f"202601{30 + i}-0a1b2c3d-a1", "state": "published",
     "metric": "bucket_recall", "value": value, "before": None, "change": None}
    for i, value in enumerate((0.5, float("nan")))
]  # fmt: skip
VIEWS = {
    "freshness": [],
    "cost": [{"run_id": RUN["run_id"], "stage": "train_model", "seconds": 3.0}],
    "fidelity": [],
    "drift": DRIFT,
}


def test_the_page_is_well_formed_and_escapes_what_it_shows() -> None:
    text = page("/data/<root>", [RUN], VIEWS)
    body = ET.fromstring(text.removeprefix("<!doctype html>\n").replace('<meta charset="utf-8">', ""))
    assert "audit.min_cosine: <low> & bad" in "".join(body.itertext())
    assert len(body.findall(".//svg")) == 3
    assert "http" not in text
    assert "<script" not in text


def test_a_page_without_runs() -> None:
    assert "none" in page("/data", [], {"freshness": [], "cost": [], "fidelity": [], "drift": []})


def test_charts_leave_out_what_is_not_a_number() -> None:
    assert line_chart([("a", 1.0), ("b", float("nan"))], "x").count("<circle") == 1
    assert line_chart([("a", float("nan"))], "x") == ""
    assert bars([("a", 0.0)], "x").count("<rect") == 1


def test_the_table_names_every_failure_in_full() -> None:
    text = list_runs([Row(**(RUN | {"detail": "x" * 90}))], 20)
    assert text.splitlines()[0].split() == [
        "run",
        "state",
        "shown",
        "in",
        "stages",
        "last",
        "seconds",
        "changed",
        "(UTC)",
    ]
    assert "train_model" in text.splitlines()[1]
    assert f"{RUN['run_id']} failed: {'x' * 90}" in text


def test_long_cells_are_cut_and_no_rows_are_told() -> None:
    assert as_table([]) == "none\n"
    assert as_table([{"a": "y" * 90}]).splitlines()[1] == "y" * 57 + "..."

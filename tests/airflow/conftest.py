"""Airflow's own environment runs these: `make test-airflow`. No Spark session, no walkbits package."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Set before airflow is imported: it reads them once.
os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
os.environ.setdefault("AIRFLOW__CORE__UNIT_TEST_MODE", "True")
os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(ROOT / "airflow_dags")
os.environ["WALKBITS_HOME"] = "/srv/walkbits"
os.environ["WALKBITS_CONFIG"] = "/srv/walkbits/conf/production.yaml"
os.environ["AIRFLOW_CONN_SPARK_DEFAULT"] = '{"conn_type": "spark", "host": "spark://master:7077"}'

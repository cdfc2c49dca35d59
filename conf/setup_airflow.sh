#!/usr/bin/env bash
# Make .cache/airflow what requirements-airflow.lock says: Airflow's own environment, for tests.
# With the word `lock` it resolves that file anew first. Runs after conf/setup.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. ./versions.env
mode=${1:-}
key() { { cat requirements-airflow.lock conf/setup_airflow.sh; pwd; } | sha256sum; }
if [[ $mode != lock && "$(cat .cache/airflow.key 2>/dev/null)" == "$(key)" ]]; then exit 0; fi

uv=.cache/uv-$UV_VERSION/bin/uv
export UV_PYTHON_DOWNLOADS=never
[[ -z ${PIP_INDEX_URL:-} ]] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$PIP_INDEX_URL}"
if [[ $mode == lock ]]; then
  echo 'setup: resolving requirements-airflow.lock' >&2
  printf '%s\n' "apache-airflow==$AIRFLOW_VERSION" \
    "apache-airflow-providers-apache-spark==$AIRFLOW_SPARK_PROVIDER_VERSION" \
    "pytest$PYTEST_SPEC" "pytest-timeout$PYTEST_TIMEOUT_SPEC" |
    UV_CUSTOM_COMPILE_COMMAND='make lock' "$uv" pip compile --quiet --python .venv/bin/python \
      --python-version "$PYTHON_VERSION" --generate-hashes --no-emit-index-url --no-emit-find-links \
      --no-annotate - -o requirements-airflow.lock
fi
echo 'setup: Airflow into .cache/airflow (500 MB)' >&2
[[ -x .cache/airflow/bin/python ]] || "$uv" venv --quiet --python .venv/bin/python .cache/airflow
sync() { "$uv" pip sync --require-hashes --python .cache/airflow/bin/python "$@" requirements-airflow.lock; }
sync --offline --quiet 2>/dev/null || sync
key >.cache/airflow.key

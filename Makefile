# The interface for people and for CI: `make` alone lists the targets.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test-unit test test-system test-all test-dags test-airflow test-standalone check format hooks sql doctor bench-build bench-day bench-index bench-layers bench-walks results zip lock clean

ACTIVATE := . conf/env.sh
# The last day of the demo's data.
DEMO_DS := 2018-01-01
# Spark's launcher asks for an incubator module, of which every Java says so, whatever its settings.
NO_NOTICE := grep --line-buffered -vF "WARNING: Using incubator modules"
# Two processes of tests, each with a Spark session of its own; a file's tests stay together.
PYTEST := pytest -n 2 --dist loadfile

help: ## List the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r name what; do printf '  make %-15s %s\n' "$$name" "$$what"; done

setup: ## Create .venv from the lock, find or install Java, resolve the Delta jars
	@conf/setup.sh

demo: setup ## Run a whole day on real baskets and show related products
	@$(ACTIVATE); python -m walkbits.tools.demo prepare
	@$(ACTIVATE); spark-submit jobs/run_daily.py --config conf/demo.yaml --ds $(DEMO_DS) 2> >($(NO_NOTICE) >&2)
	@$(ACTIVATE); python -m walkbits.tools.demo show 2> >($(NO_NOTICE) >&2)

test-unit: setup ## Run the tests that need no Spark
	@$(ACTIVATE); $(PYTEST) tests/unit $(ARGS)

test: setup ## Run the tests of every function and stage; ARGS="-k walks" passes flags to pytest
	@$(ACTIVATE); $(PYTEST) $(ARGS)

test-system: setup ## Run kills, races, damaged tables and whole days of each model
	@$(ACTIVATE); $(PYTEST) -m "system and not slow" $(ARGS)

test-all: test-dags ## Run every test: killed jobs, a cluster and a real Airflow too; print the coverage
	@$(ACTIVATE); $(PYTEST) -m "" --cov --cov-report=term $(ARGS)

test-dags: setup ## Build Airflow's own environment and test the DAG files in it
	@conf/setup_airflow.sh
	@mkdir -p .cache/airflow-home
	@AIRFLOW_HOME=$(CURDIR)/.cache/airflow-home .cache/airflow/bin/python -m pytest --confcutdir tests/airflow tests/airflow/test_dags.py $(ARGS)

test-airflow: test-dags ## Also run them for real: two days, a kill, a repeat, a backfill
	@$(ACTIVATE); pytest -m slow --confcutdir tests/airflow tests/airflow/test_real_run.py $(ARGS)

test-standalone: setup ## Start a Spark master and two workers here, run a day on them, compare with local mode
	@$(ACTIVATE); pytest -m slow tests/standalone $(ARGS)

check: setup ## Lint and type-check Python and SQL
	@$(ACTIVATE); ruff check .
	@$(ACTIVATE); ruff format --check .
	@$(ACTIVATE); mypy
	@$(ACTIVATE); sqlfluff lint --disable-progress-bar sql

format: setup ## Rewrite Python and SQL to the style
	@$(ACTIVATE); ruff check --fix .; ruff format .; sqlfluff fix --disable-progress-bar sql

hooks: ## Make git run `make check` before every commit
	@git config core.hooksPath conf/hooks

sql: setup ## SQL prompt on the published views; Q=sql/queries/FILE.sql ARGS="name=value" runs one query
	@$(ACTIVATE); python jobs/query.py $(Q) $(ARGS)

doctor: ## Check versions, jars and settings; prints the command that fixes each problem
	@$(ACTIVATE); spark-submit jobs/doctor.py

bench-build: setup ## Build a mapped graph of 100 M edges; writes benchmarks/results/graph_build.json
	@$(ACTIVATE); spark-submit --conf spark.ui.showConsoleProgress=false benchmarks/graph_build.py $(ARGS)

bench-day: setup ## Measure a whole day on generated worlds; writes benchmarks/results/day.json
	@$(ACTIVATE); spark-submit --conf spark.ui.showConsoleProgress=false benchmarks/day.py $(ARGS)

bench-index: setup ## Measure batch top-k beside faiss; writes benchmarks/results/index.json
	@$(ACTIVATE); spark-submit --conf spark.ui.showConsoleProgress=false benchmarks/index.py $(ARGS)

bench-layers: setup ## Layer engine beside the limit and a join; writes benchmarks/results/layers.json
	@$(ACTIVATE); spark-submit --conf spark.ui.showConsoleProgress=false benchmarks/layers.py $(ARGS)

bench-walks: setup ## Measure the walk engine beside its peers; writes benchmarks/results/walks.json
	@benchmarks/peer_env.sh
	@$(ACTIVATE); spark-submit --conf spark.ui.showConsoleProgress=false benchmarks/walks.py $(ARGS)

results: setup ## Compare models and rivals on every data set at hand; writes docs/results.md and benchmarks/results/quality.json
	@$(ACTIVATE); OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 python benchmarks/quality.py $(ARGS)

zip: setup ## Build dist/walkbits.zip, for spark-submit --py-files on a cluster
	@rm -rf build dist
	@$(ACTIVATE); . ./versions.env; .cache/uv-$$UV_VERSION/bin/uv build --quiet --offline --wheel --no-build-isolation --python .venv/bin/python --out-dir dist
	@mv dist/walkbits-*.whl dist/walkbits.zip # Spark takes .zip, and refuses the same bytes as .whl
	@rm -rf build

lock: ## Resolve anew: rewrite requirements.lock, requirements-airflow.lock and conf/jars.sha256 from versions.env
	@conf/setup.sh lock
	@conf/setup_airflow.sh lock

clean: ## Remove caches, build results and the demo's tables; keeps .venv and .cache
	rm -rf build dist data/demo spark-warehouse metastore_db derby.log
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find lib jobs tests -name __pycache__ -prune -exec rm -rf {} +

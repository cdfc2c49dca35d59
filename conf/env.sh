# source conf/env.sh    (bash or zsh; from any folder)
# Puts python, spark-submit and the tools of .venv on PATH, and Spark's settings on conf/.
# `deactivate` undoes PATH.

walkbits_root="$(cd "$(dirname "${BASH_SOURCE[0]:-${(%):-%x}}")/.." && pwd -P)"
if [ ! -f "$walkbits_root/.venv/bin/activate" ] || [ ! -x "$walkbits_root/.cache/java/bin/java" ]; then
  echo "walkbits is not set up; run: make -C '$walkbits_root' setup" >&2
  unset walkbits_root
  return 1
fi
. "$walkbits_root/.venv/bin/activate"

# Another Spark or another package path would win over the environment's own. Naming
# the home also spares spark-submit its search, which trips over spaces in the path.
unset PYTHONPATH
for SPARK_HOME in "$walkbits_root"/.venv/lib/python3.*/site-packages/pyspark; do export SPARK_HOME; done
export SPARK_CONF_DIR="$walkbits_root/conf"
# Without these the workers start whatever python3 the system has.
export PYSPARK_PYTHON="$walkbits_root/.venv/bin/python"
export PYSPARK_DRIVER_PYTHON="$PYSPARK_PYTHON"
export JAVA_HOME="$(cd -P "$walkbits_root/.cache/java" && pwd)"
# Local Spark listens on this machine only. For a cluster: unset SPARK_LOCAL_IP.
export SPARK_LOCAL_IP="${SPARK_LOCAL_IP:-127.0.0.1}"
# Spark's progress bar, on terminals only: spark-submit has it off, a plain python has it on.
if [ -t 2 ]; then
  export SPARK_SUBMIT_OPTS="${SPARK_SUBMIT_OPTS:--Dspark.ui.showConsoleProgress=true}"
else
  export PYSPARK_SUBMIT_ARGS="--conf spark.ui.showConsoleProgress=false pyspark-shell"
fi
unset walkbits_root

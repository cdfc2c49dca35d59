#!/usr/bin/env bash
# Make .venv, .cache/java and .cache/jars what versions.env and requirements.lock say.
# What is there already is kept: a second run takes a moment and needs no network.
# With the word `lock` it resolves anew first, and writes requirements.lock and jars.sha256.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. ./versions.env
mode=${1:-}

inputs=(versions.env requirements.lock setup.py conf/setup.sh conf/jars.xml conf/jars.sha256 conf/ivysettings.xml)
key() { { cat "${inputs[@]}"; pwd; } | sha256sum; } # environments hold absolute paths: the folder counts
jars_match() { (cd .cache/jars 2>/dev/null && sha256sum --check --strict --quiet ../../conf/jars.sha256 >/dev/null 2>&1); }
if [[ -x .venv/bin/spark-submit && -x .cache/java/bin/java && $mode != lock \
      && "$(cat .cache/setup.key 2>/dev/null)" == "$(key)" ]] && jars_match; then
  exit 0
fi

say() { printf 'setup: %s\n' "$*" >&2; }
stop() { printf 'setup: %s\n' "$@" >&2; exit 1; }
sudo=$([[ $(id -u) == 0 ]] || echo 'sudo ')

mkdir -p .cache
exec 9>.cache/setup.lock
flock 9 # two of us at once would trip over each other

# --- Python: found, never installed
is_python() {
  "$1" -c "import sys, venv, ensurepip; sys.exit('%d.%d' % sys.version_info[:2] != '$PYTHON_VERSION')" 2>/dev/null
}
python=
for candidate in "python$PYTHON_VERSION" python3 python; do
  if is_python "$candidate"; then python=$(command -v "$candidate"); break; fi
done
[[ -n $python ]] || stop "Python $PYTHON_VERSION with its venv module is needed and was not found on PATH." \
  "On Debian or Ubuntu: ${sudo}apt-get install python$PYTHON_VERSION python$PYTHON_VERSION-venv"

# --- Java: found, or installed where that takes no questions
java_home() { # the home of java command $1, if Spark can run on it
  local shown version
  # Spark always adds this module; JDKs cut down for wheels and containers lack it.
  shown=$("$1" --add-modules=jdk.incubator.vector -XshowSettings:properties -version 2>&1) || return 1
  version=$(sed -n 's/^ *java\.specification\.version = //p' <<<"$shown")
  [[ " $JAVA_ACCEPTED " == *" $version "* ]] || return 1
  sed -n 's/^ *java\.home = //p' <<<"$shown"
}
find_java() {
  local candidate
  for candidate in .cache/java/bin/java "${JAVA_HOME:-/none}/bin/java" "$(command -v java || true)" \
                   /usr/lib/jvm/*/bin/java; do
    if [[ -x $candidate ]] && java_home "$candidate"; then return 0; fi
  done
  return 1
}
install_java="apt-get install -y --no-install-recommends openjdk-$JAVA_VERSION-jre-headless"
if ! home=$(find_java); then
  if [[ -f /etc/debian_version && $(id -u) == 0 ]]; then
    say "no Java of version ${JAVA_ACCEPTED// / or } found; installing: $install_java"
    mkdir -p /usr/share/man/man1 # slim images lack it, and the package's links need it
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive $install_java -qq; } >&2 \
      || stop "that failed; install Java ${JAVA_ACCEPTED// / or } and run make setup again"
    home=$(find_java) || stop "Java $JAVA_VERSION is installed but does not start: set JAVA_HOME and run make setup again"
  else
    stop "Java ${JAVA_ACCEPTED// / or } is needed, and neither JAVA_HOME nor PATH leads to one." \
      "On Debian or Ubuntu: $sudo$install_java" "Elsewhere: install it, set JAVA_HOME, and run make setup again."
  fi
fi
ln -sfn "$home" .cache/java

# --- Python packages: uv reads hashes, keeps a cache, and installs in seconds
uv=.cache/uv-$UV_VERSION/bin/uv
if [[ ! -x $uv ]]; then
  say "fetching uv $UV_VERSION"
  "$python" -m venv --clear ".cache/uv-$UV_VERSION"
  ".cache/uv-$UV_VERSION/bin/python" -m pip install --quiet "uv==$UV_VERSION"
fi
export UV_PYTHON_DOWNLOADS=never
[[ -z ${PIP_INDEX_URL:-} ]] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$PIP_INDEX_URL}"
if [[ $mode == lock ]]; then
  say "resolving requirements.lock"
  UV_CUSTOM_COMPILE_COMMAND='make lock' "$uv" pip compile --quiet --python "$python" \
    --python-version "$PYTHON_VERSION" --generate-hashes --no-emit-index-url --no-emit-find-links \
    --extra demo --extra dev setup.py -o requirements.lock
fi
made_here=$(.venv/bin/python -c 'import sys; print(sys.prefix)' 2>/dev/null || true)
if [[ $made_here != "$PWD/.venv" ]] || ! grep -qF "$PWD/.venv" .venv/bin/activate; then
  say "creating .venv with $("$python" --version)"
  "$uv" venv --quiet --clear --python "$python" .venv
fi
say "Python packages of requirements.lock into .venv (several GB the first time)"
sync() { "$uv" pip sync --require-hashes --python .venv/bin/python "$@" requirements.lock; }
sync --offline --quiet 2>/dev/null || sync # what uv's cache holds needs no network
"$uv" pip install --quiet --offline --no-deps --no-build-isolation --python .venv/bin/python --editable .

# --- Jars: resolved here once, so that no job ever asks the network
if [[ $mode == lock ]] || ! jars_match; then
  say "jars of conf/jars.xml into .cache/jars"
  rm -rf .cache/jars.new
  .cache/java/bin/java -DDELTA_VERSION="$DELTA_VERSION" -DSPARK_MINOR_VERSION="$SPARK_MINOR_VERSION" \
    -DSCALA_VERSION="$SCALA_VERSION" -jar .venv/lib/python"$PYTHON_VERSION"/site-packages/pyspark/jars/ivy-*.jar \
    -settings conf/ivysettings.xml -ivy conf/jars.xml -cache .cache/ivy -types jar -warn \
    -retrieve '.cache/jars.new/[artifact]-[revision].[ext]' >.cache/ivy.log 2>&1 \
    || { tail -n 20 .cache/ivy.log >&2; stop "the jars could not be resolved (whole log: .cache/ivy.log); is the network up?"; }
  rm -rf .cache/jars && mv .cache/jars.new .cache/jars
  [[ $mode != lock ]] || (cd .cache/jars && sha256sum -- *.jar >../../conf/jars.sha256)
  jars_match || stop "the jars differ from conf/jars.sha256; if versions.env changed on purpose: make lock"
fi

key >.cache/setup.key
say "ready; activate with: source conf/env.sh"

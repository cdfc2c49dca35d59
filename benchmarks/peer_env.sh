#!/usr/bin/env bash
# Create .cache/bench-dgl, the environment of the peer that `make bench-walks` measures.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. ./versions.env
env=.cache/bench-dgl
made="$env/made-of"
want="$PYTHON_VERSION dgl $BENCH_DGL_VERSION torch $BENCH_DGL_TORCH_VERSION setuptools $BENCH_DGL_SETUPTOOLS_VERSION"
[ "$(cat "$made" 2>/dev/null || true)" = "$want" ] && exit 0
uv=".cache/uv-$UV_VERSION/bin/uv"
"$uv" venv --quiet --clear --python "$PYTHON_VERSION" "$env"
export VIRTUAL_ENV="$env"
"$uv" pip install --quiet "torch==$BENCH_DGL_TORCH_VERSION" numpy scipy networkx requests tqdm psutil packaging
"$uv" pip install --quiet --no-deps "setuptools==$BENCH_DGL_SETUPTOOLS_VERSION" "dgl==$BENCH_DGL_VERSION"
echo "$want" > "$made"

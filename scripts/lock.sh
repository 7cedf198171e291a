#!/usr/bin/env bash
# Resolves locks/*.in into locks/*.txt, with hashes, for Python 3.11 and 3.12 at once. Needs uv.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v uv >/dev/null 2>&1 || { echo "lock: needs uv, which resolves for several Pythons at once (pip install uv)" >&2; exit 1; }
compile() {
  UV_CUSTOM_COMPILE_COMMAND="make lock" uv pip compile --quiet --universal --python-version 3.11 --generate-hashes "$@"
}
compile "$@" locks/main.in -o locks/main.txt
# A model trained in one environment is loaded in the other: what it is made of has the same version in both.
same=locks/shared.txt
grep -E '^(mlflow|scikit-learn|skops|cloudpickle|joblib|numpy|scipy|pandas|pyarrow|pydantic|pydantic-core|xgboost-cpu|lightgbm|onnx|onnxruntime)==' locks/main.txt \
  | sed 's/ *\\$//' > "$same"
compile "$@" -c "$same" locks/serving.in -o locks/serving.txt
# What docker/ builds its images with.
compile "$@" docker/uv.in -o docker/uv.txt

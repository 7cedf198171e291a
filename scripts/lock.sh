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
# What the Airflow image has beyond the first, as the first allows it; only what is not in that one.
compile "$@" -c locks/main.txt docker/airflow-extra.in -o docker/airflow-extra.txt
python3 - locks/main.txt docker/airflow-extra.txt <<'KEEP'
import re, sys
from pathlib import Path
main, extra = map(Path, sys.argv[1:])
name = re.compile(r"([\w.-]+)(?:\[[\w,.-]+\])?==")
known = {found[1] for line in main.read_text().splitlines() if (found := name.match(line))}
kept, keep = [], True
for line in extra.read_text().splitlines(keepends=True):
    if found := name.match(line):
        keep = found[1] not in known
    if keep:
        kept.append(line)
extra.write_text("".join(kept))
KEEP
# What docker/ builds its images with.
compile "$@" docker/uv.in -o docker/uv.txt

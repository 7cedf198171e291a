#!/usr/bin/env bash
# Resolves locks/*.in into locks/*.txt, with hashes, for Python 3.11 and 3.12 at once. Needs uv.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v uv >/dev/null 2>&1 || { echo "lock: needs uv, which resolves for several Pythons at once (pip install uv)" >&2; exit 1; }
for name in main serving; do
  UV_CUSTOM_COMPILE_COMMAND="make lock" uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
    "$@" "locks/$name.in" -o "locks/$name.txt"
done

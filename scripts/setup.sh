#!/usr/bin/env bash
# Makes .venv (everything but the model servers) and .venv-serving (MLServer) from the lock files.
# Quick when nothing changed; an interrupted run is simply repeated. $PYTHON chooses the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$1"; shift; for line in "$@"; do printf '  -> %s\n' "$line" >&2; done; exit 1; }

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true; }
fits() { case "$(version_of "$1")" in 3.11|3.12) return 0;; *) return 1;; esac; }

find_python() {
  if [ -n "${PYTHON:-}" ]; then
    local found; found=$(version_of "$PYTHON")
    [ -n "$found" ] || die "PYTHON=$PYTHON cannot be run" "name an interpreter of Python 3.11 or 3.12"
    fits "$PYTHON" || die "PYTHON=$PYTHON is Python $found; expected 3.11 or 3.12" "$(too "$found")"
    echo "$PYTHON"; return
  fi
  local candidate
  for candidate in python3 python3.11 python3.12 python; do
    if command -v "$candidate" >/dev/null 2>&1 && fits "$candidate"; then command -v "$candidate"; return; fi
  done
  # uv can bring an interpreter of its own.
  if command -v uv >/dev/null 2>&1; then echo 3.11; return; fi
  local found; found=$(version_of python3)
  [ -n "$found" ] || die "no python3 on PATH; Windtunnel needs Python 3.11 or 3.12" "install it, or name one: make setup PYTHON=/path/to/python3.11"
  die "python3 is Python $found; Windtunnel needs 3.11 or 3.12" "$(too "$found")" "name another one: make setup PYTHON=/path/to/python3.11"
}

too() {
  case "$1" in
    2.*|3.[0-9]|3.10) echo "$1 is too old: pandas, Airflow and MLflow in the versions used here start at 3.11" ;;
    *) echo "$1 is too new: MLServer, which serves the models, ends below 3.13" ;;
  esac
}

# other FOLDER: somebody asks for a Python that is not the one of this environment.
other() { [ -n "${PYTHON:-}" ] && [ -x "$1/bin/python" ] && [ "$(version_of "$PYTHON")" != "$(version_of "$1/bin/python")" ]; }

digest() { cat "$@" | sha256sum | cut -d' ' -f1; }

# environment FOLDER LOCK: make it, unless its stamp says that it is what the lock asks for.
environment() {
  local folder=$1 lock=$2 stamp=$1/.setup-stamp wanted
  wanted="$(digest "$lock" setup.py) $(pwd)"
  if ! other "$folder" && [ -x "$folder/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && "$folder/bin/python" -c '' 2>/dev/null; then
    return
  fi
  rm -f "$stamp"
  if [ -e "$folder/bin/python" ] && { ! fits "$folder/bin/python" || other "$folder"; }; then
    say "$folder is of another Python; making it anew"
    rm -rf "$folder"
  fi
  local started=$SECONDS
  say "installing $lock into $folder (the first time this downloads several hundred MB)"
  if command -v uv >/dev/null 2>&1; then
    [ -x "$folder/bin/python" ] || uv venv --quiet --python "$python" "$folder"
    uv pip install --quiet --python "$folder/bin/python" --require-hashes -r "$lock"
    flock scripts uv pip install --quiet --python "$folder/bin/python" --no-deps --no-build-isolation -e .
  else
    if [ ! -x "$folder/bin/python" ] || ! "$folder/bin/python" -m pip --version >/dev/null 2>&1; then
      "$python" -c 'import ensurepip, venv' 2>/dev/null || die "$python cannot make environments (module venv or ensurepip is missing)" \
        "on Debian and Ubuntu: apt-get install python3-venv" "or install uv"
      rm -rf "$folder"
      "$python" -m venv "$folder"
    fi
    # The lock is complete, so nothing is resolved; older pips do not see that a lock's pandas is also pandas[parquet].
    # Not compiled, as uv does: most of what is installed is never imported, and what is compiles itself, once.
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --require-hashes -r "$lock"
    flock scripts "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
  fi
  printf '%s' "$wanted" > "$stamp"
  say "$folder is ready ($((SECONDS - started)) s)"
}

[ "$(uname -s)" = Linux ] || die "this is $(uname -s); the embedded stack runs on Linux" "use Linux, a virtual machine or a container"
python=$(find_python)
# Both at once, for much of it is waiting and one core; but one at a time (flock) writes what the checkout itself gets.
set -m # a group of its own, that ends with us however we end
environment .venv-serving locks/serving.txt &
serving=$!
set +m
trap 'kill -- -"$serving" 2>/dev/null || true' EXIT
environment .venv locks/main.txt
wait $serving
trap - EXIT

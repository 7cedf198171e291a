# Everything a contributor types. `make demo` and `make test` do all set-up from nothing.
#   make setup PYTHON=/path/to/python3.12    chooses the interpreter (3.11 or 3.12)
#   make lock UPGRADE=--upgrade              newer versions into locks/
#   make test PYTEST="-k rollout"            more words for pytest
SHELL := /bin/bash
.DEFAULT_GOAL := help
BIN := .venv/bin
PYTEST ?=
# One worker flies and starts whole stacks, the other tests beside it (docs/decisions/0007); WORKERS= takes one process.
WORKERS ?= -n 2 --dist loadscope --no-loadscope-reorder

.PHONY: help setup lock check test test-long test-kubernetes bench demo clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## the two environments, .venv and .venv-serving
	@PYTHON="$(PYTHON)" scripts/setup.sh

lock: ## resolve locks/*.in anew (needs uv)
	@scripts/lock.sh $(UPGRADE)

check: setup ## lint, format, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check ## check, then every test but the long ones
	$(BIN)/python -m pytest -m "not long" $(WORKERS) $(PYTEST)

test-long: check ## every test; run again, it goes on where it was
	WINDTUNNEL_TEST_RESUME=1 $(BIN)/python -m pytest $(PYTEST)

test-kubernetes: setup ## what is asked of a real API server; the one KUBECONFIG names
	WINDTUNNEL_TEST_KUBERNETES=1 $(BIN)/python -m pytest -m kubernetes $(PYTEST)

bench: setup ## benchmarks; results go to docs/benchmarks.md
	$(BIN)/python -m bench

demo: setup ## a model's whole life on real data, ten to thirteen minutes
	$(BIN)/windtunnel demo

clean: ## remove environments and caches; a stack's home stays
	rm -rf .venv .venv-serving build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

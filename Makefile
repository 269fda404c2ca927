# Lookback. `make` alone lists the targets; options go behind them as NAME=value.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format run replay bench kill-matrix clean lock

BIN := .venv/bin
PYTHON := $(BIN)/python
FEATURES ?= features/fraud.yaml
WORKERS ?= 1
# Tests wait more than they compute: for servers that stall, brokers that are gone for a minute.
JOBS ?= 3

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## make .venv, install the locked packages, compile the kernels (LOOKBACK_PYTHON=/path/to/python3.12)
	@LOOKBACK_PYTHON="$(LOOKBACK_PYTHON)" bash scripts/setup.sh

demo: setup ## run the main job on a million card payments, crash it, replay it, compare (OUT=demo-out)
	@$(PYTHON) -m examples.card_fraud.demo --out "$(or $(OUT),demo-out)"

test: setup ## run all tests, JOBS=3 at once (ARGS="tests/windows -k count" for some of them, one by one)
	@if command -v java && command -v mvn; then tests/services/kafka.sh; fi >/dev/null
	@$(PYTHON) -m pytest $(if $(ARGS),$(ARGS),-n $(JOBS) --dist loadfile)

lint: setup ## check style, formatting and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: setup ## put the code in the project's format
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

run: setup ## run the live job (SOURCE=archive:…|kafka://… STORE=lmdb:…|redis://… STATE=… FEATURES= WORKERS= ARGS=--until-end)
	@$(if $(SOURCE),,echo "run: name a source: make run SOURCE=archive:PATH or SOURCE=kafka://HOST:PORT" >&2; exit 2;) \
	$(BIN)/lookback run "$(FEATURES)" --source "$(SOURCE)" --store "$(or $(STORE),lmdb:.lookback/store)" \
	    --state "$(or $(STATE),.lookback/state)" --workers "$(WORKERS)" $(ARGS)

replay: setup ## write training rows (FROM=2024-01-01 SOURCE=archive:…|kafka://… [TO= FEATURES= LABELS= OUT=training WORKERS= ARGS=])
	@$(if $(FROM),,echo "replay: name the first day: make replay FROM=2024-01-01 SOURCE=archive:PATH" >&2; exit 2;) \
	$(if $(SOURCE),,echo "replay: name a source: make replay FROM=$(FROM) SOURCE=archive:PATH or SOURCE=kafka://HOST:PORT" >&2; exit 2;) \
	$(BIN)/lookback replay "$(FEATURES)" --source "$(SOURCE)" --from "$(FROM)" $(if $(TO),--to "$(TO)") \
	    $(if $(LABELS),--labels "$(LABELS)") --workers "$(WORKERS)" --out "$(or $(OUT),training)" $(ARGS)

kill-matrix: setup ## kill everything everywhere, go on where it was broken off, write docs/kill-matrix.md (SEED=1 CELLS= FULL=1 ARGS=--anew)
	@if command -v java && command -v mvn; then tests/services/kafka.sh; fi >/dev/null
	@$(PYTHON) -m tests.matrix --report docs/kill-matrix.md $(if $(SEED),--seed $(SEED)) $(if $(CELLS),--cells $(CELLS)) \
	    $(if $(FULL),--full) $(ARGS)

bench: setup ## measure, and write benchmarks/RESULTS.md (some minutes)
	@$(PYTHON) -m benchmarks $(ARGS)

lock: ## write the three lock files anew (needs uv)
	@bash scripts/lock.sh

clean: ## remove what the demo, the runs and the checks left behind (keeps .venv)
	@rm -rf demo-out training .lookback .mypy_cache .ruff_cache .hypothesis build dist
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

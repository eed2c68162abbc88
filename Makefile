# `make up` and `make test` need Python 3.11+ and make, nothing else: no server, no DATABASE_URL, no root.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
  command -v $$p >/dev/null 2>&1 && $$p -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
m ?=

.DEFAULT_GOAL := help
.PHONY: help setup up down demo-adopt test coverage test-slow test-all matrix lint format revision freeze judges snapshot docs docs-serve wheel chaos bench clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile

$(READY): pyproject.toml profiles_schema/_version.py
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found. Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 2; }
	@echo "Setting up $(VENV) with $$($(PYTHON) --version) ..."
# Without the mark, the last set-up was interrupted and may have left half a pip: begin with an empty directory.
	@rm -f $(READY)
	@$(PYTHON) -m venv $(if $(wildcard $(READY)),,--clear) $(VENV) || { echo "error: $(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv" >&2; exit 2; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dev --editable '.[local]'
	@touch $(READY)

setup: $(READY) ## Make the environment in .venv, with all extras and the development set

up: $(READY) ## Set up, migrate the embedded PostgreSQL, check its health, try everything once
	@$(BIN)/profiles-schema upgrade --local
	@$(BIN)/profiles-schema health --local
	@$(BIN)/profiles-schema smoke --local
	@echo
	@echo "It works. What next:"
	@echo "  your own database    DATABASE_URL=postgresql://user:password@host/db $(BIN)/alembic upgrade head"
	@echo "  look at this one     $(BIN)/profiles-schema local url"
	@echo "  in your application  from profiles_schema import UserProfile"
	@echo "  all commands         $(BIN)/profiles-schema --help    (the tutorial: docs/tutorial/your-first-profile.md)"
	@echo "  stop the server      make down    (keeps its data)"

down: $(READY) ## Stop the embedded PostgreSQL and keep its data
	@$(BIN)/profiles-schema local stop

demo-adopt: $(READY) ## Show how existing tables are adopted: before, the plan, after
	@$(BIN)/python examples/adopt/demo.py

# Three workers for two cores: a third of the time the tests wait for servers and programs.
WORKERS = $(shell $(BIN)/python -c 'import os; print((os.cpu_count() or 1) * 3 // 2 or 1)')
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
test: $(READY) ## Run the tests on an embedded PostgreSQL of their own, in minutes; some of them: ARGS=tests/sql
	$(PYTEST) -m "not slow" $(ARGS)

coverage: $(READY) ## Run the quick tests and say which branches they miss; fails under 90 %
	$(PYTEST) -m "not slow" --cov --cov-report=term:skip-covered --cov-fail-under=90

test-slow: $(READY) $(VENV)/.slow ## Run the tests that kill, load and repeat
	$(PYTEST) -m slow $(ARGS)

$(VENV)/.slow: $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group slow
	@touch $@

test-all: $(if $(ARGS),$(READY),test test-slow) ## Run all tests, each once
	$(if $(ARGS),$(PYTEST) $(ARGS))

matrix: $(READY) ## Run the database tests on PostgreSQL 15, 16 and 17, some on other Pythons and libraries; on one: ARGS=15
	$(BIN)/python scripts/matrix.py $(ARGS)

lint: $(READY) ## Check style, formatting, types and floors
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## Format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

revision: $(READY) ## Write the next revision from what changed, on the embedded PostgreSQL: make revision m="add a column"
	@test -n "$(m)" || { echo 'error: say what the revision does: make revision m="add a column"' >&2; exit 2; }
	@DATABASE_URL=local $(BIN)/alembic upgrade head
	@DATABASE_URL=local $(BIN)/alembic revision --autogenerate -m "$(m)"

freeze: $(READY) ## Copy the live SQL files into the unreleased revisions that hold them, then write the fingerprints
	@$(BIN)/python scripts/freeze.py
	@$(MAKE) --no-print-directory snapshot

judges: $(READY) ## Print the 35 known failures of sign-up triggers: the naive one and ours
	$(BIN)/python scripts/judge_sign_up.py

snapshot: $(READY) ## Write what is made from the models and the mapping: fingerprints for health, known_traits.sql
	$(BIN)/python -m pytest -q tests/sql/test_traits.py tests/migrations/test_parity.py --update-catalog

docs: $(READY) $(VENV)/.docs ## Write docs/reference/commands.md from the --help of every command, and build the site into site/
	$(BIN)/python -m pytest -q tests/test_docs.py --update-docs
	$(BIN)/zensical build --clean --strict

docs-serve: $(VENV)/.docs ## Show the site at http://localhost:8000, and build it again after every change
	$(BIN)/zensical serve

$(VENV)/.docs: $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group docs
	@touch $@

wheel: $(READY) ## Build the wheel, install it without the development set, and upgrade a first database from it
	PYTHON=$(BIN)/python scripts/wheel.sh

chaos: $(READY) ## Try to break it for long: 100,000 sign-ups with one name; backfill, normalize, adoption, upgrade and rotation killed and cut off
	$(BIN)/python benchmarks/same_name.py
	PYTHONPATH=tests $(BIN)/python -m chaos.backfill
	PYTHONPATH=tests $(BIN)/python -m chaos.normalize
	PYTHONPATH=tests $(BIN)/python -m chaos.adopt
	PYTHONPATH=tests $(BIN)/python -m chaos.upgrade
	PYTHONPATH=tests $(BIN)/python -m chaos.rotate
	PROFILES_TEST_SHAPE_ROWS=10000 $(BIN)/python -m pytest -q tests/adoption/test_adopt.py

bench: $(READY) ## Run the benchmarks side by side; results in benchmarks/results
	@mkdir -p benchmarks/results
	$(BIN)/python benchmarks/import_models.py --out benchmarks/results/import_models.json
	$(BIN)/python benchmarks/noop_upgrade.py --out benchmarks/results/noop_upgrade.json
	$(BIN)/python benchmarks/signup.py --out benchmarks/results/signup.json
	$(BIN)/python benchmarks/backfill.py --out benchmarks/results/backfill.json
	$(BIN)/python benchmarks/normalize.py --out benchmarks/results/normalize.json
	$(BIN)/python benchmarks/adopt.py --out benchmarks/results/adopt.json

clean: ## Remove what was built, but not the embedded server's data
	rm -rf $(VENV) build dist site .cache benchmarks/results .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis

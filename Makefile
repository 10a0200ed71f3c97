# Every target makes what it needs, .venv included, and may be run again at any time.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

.DEFAULT_GOAL := help
.PHONY: help install demo test slow check table compare figures report data-check

help: ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: $(STAMP) ## the environment in .venv, with the exact versions of constraints.txt

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(STAMP) ## six methods on the mini suite in minutes, without a download (FULL=1: all of its tasks)
	$(BIN)/python scripts/demo.py $(if $(FULL),--full)

test: $(STAMP) ## the tests that take minutes at most
	$(BIN)/python -m pytest

slow: $(STAMP) ## the tests that take longer
	$(BIN)/python -m pytest -m slow -n 0  # one by one: some of them measure

check: $(STAMP) ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

table: $(STAMP) ## results/tables/ from results/records/
	$(BIN)/python scripts/tables.py

compare: $(STAMP) ## what the differences in the tables are worth
	$(BIN)/python scripts/compare.py

figures: $(STAMP) ## results/figures/ from results/records/
	$(BIN)/python scripts/figures.py

report: $(STAMP) ## the page results/report/index.html, which needs no network
	$(BIN)/python scripts/report.py

data-check: $(STAMP) ## what of the 19 tasks is at hand, and whether it is the official data
	$(BIN)/python scripts/check_data.py

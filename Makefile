# Every target first brings .venv up to date.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
# a sweep with results of its own has them in the folder of its name
EXPERIMENTS := $(wildcard $(patsubst configs/sweep/%.yaml,results/%,$(wildcard configs/sweep/*.yaml)))

.DEFAULT_GOAL := help
.PHONY: help install demo test slow gpu cases check fix docs table compare figures report data-check

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: $(STAMP) ## create .venv with the exact versions of constraints.txt

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[harness,dev]'
	touch $@

demo: $(STAMP) ## run six methods on one task of the mini suite, without downloads (FULL=1: on all ten)
	$(BIN)/moppa demo $(if $(FULL),--full)

test: $(STAMP) ## run the fast tests (minutes)
	$(BIN)/python -m pytest

slow: $(STAMP) ## run the slow tests, one at a time because some of them measure
	$(BIN)/python -m pytest -m slow -n 0

gpu: ## check and measure everything that needs a GPU, in six minutes; without .venv it uses PYTHON
	$(or $(wildcard $(BIN)/python),$(PYTHON)) -m moppa.cli.main gpu

cases: $(STAMP) ## run the cases of ../shared/cases, which only developers have (many minutes)
	$(BIN)/python tests/cases.py

check: $(STAMP) ## check format, lint, spelling, types and generated docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/pyright
	$(BIN)/moppa docs --check

fix: $(STAMP) ## fix format, lint and spelling where a tool can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/codespell --write-changes

docs: $(STAMP) ## rewrite the generated tables of the docs and the cell counts of the sweeps
	$(BIN)/moppa docs

table: $(STAMP) ## write results/tables/ from results/records/, and the tables of the experiments
	$(BIN)/moppa table
	@for folder in $(EXPERIMENTS); do $(BIN)/moppa table --quiet $$folder || exit; done

compare: $(STAMP) ## test which differences between rows are significant
	$(BIN)/moppa compare

figures: $(STAMP) ## draw results/figures/, and the figures of the experiments
	$(BIN)/moppa figures
	@for folder in $(EXPERIMENTS); do $(BIN)/moppa figures $$folder || exit; done

report: $(STAMP) ## write the page results/report/index.html
	$(BIN)/moppa report

data-check: $(STAMP) ## check which of the 19 tasks are available and official
	$(BIN)/moppa data check

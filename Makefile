# Every target sets up .venv by itself. What is needed beforehand: Python 3.11 or newer, make, git.
#   make demo    a small model trained and tried on this machine
#   make test    all tests            make fast    those that fit in a minute
#   make lint    format, lint, types  make bench   measurements into benchmarks/results/
#   make docs    the documentation into site/, strictly: no broken link, no missing docstring

SHELL  := /bin/bash
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PIP    := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt
TYPED  := $(sort $(dir $(wildcard $(patsubst %,src/subquad/%/*.py,ops nn archs))))

.PHONY: help demo test fast lint format bench docs clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' Makefile

# torch goes first and alone, under the constraint: no other package then gets a say in its build.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "subquad needs Python 3.11 or newer, $(PYTHON) is %d.%d: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e ".[dev,bench,viz,metrics,pictures,audio,series,adapters,translation,export,serve,docs]"
	@touch $@

demo: $(STAMP)
	bash examples/demo.sh

test: $(STAMP)
	$(BIN)/python -m pytest -rs --durations 15 -n 2 --dist worksteal

fast: $(STAMP)
	$(BIN)/python -m pytest -rs -n 2 --dist worksteal -m "not slow and not gpu and not browser and not netns"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(if $(TYPED),$(BIN)/mypy $(TYPED),@echo "mypy: nothing to check yet")

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(PIP) -e ".[bench,peers]"
	$(BIN)/python benchmarks/run.py

# the theme's makers print an advertisement of theirs at every build
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=true $(BIN)/python -m mkdocs build --strict
	@echo "site/index.html is written"

clean:
	rm -rf build dist site src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# make demo | test | check | lint | docs | site ; needs only Python 3.11 or newer (PYTHON=python3.12 to choose one)
PYTHON ?= python3
VENV := .venv
LOWEST := .venv-lowest
BIN := $(VENV)/bin
# each process runs neighbouring tests, which share fixtures
TESTS := -m pytest -n auto --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help demo test kill-test check lint docs site package bench test-lowest audit fuzz clean

help:
	@echo "make demo   install and run the whole pipeline on synthetic patches"
	@echo "make test   install with the test tools and run the test suite"
	@echo "make kill-test  the death, and a failure, at every single operation on a file: takes an hour"
	@echo "make check  what CI runs: lint, types, current docs and completions, links, release files, tests"
	@echo "make package  build the sdist and the wheel into dist/, and check them"
	@echo "make bench  measure speed against other tools, and write benchmarks/README.md"
	@echo "make test-lowest  the tests with the oldest versions that pyproject.toml allows"
	@echo "make audit  the dependencies, installed and oldest, against the known vulnerabilities; their licences"
	@echo "make fuzz   more hostile and damaged files than the tests try, for some minutes; keeps what it finds"
	@echo "make docs   write completions/ and docs/cli.md again"
	@echo "make site   build the pages into site/; a dead link is an error"

$(VENV)/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "histo needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/installed: pyproject.toml | $(VENV)/created
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

# one call of pip, because each resolves all dependencies
$(VENV)/installed-dev: pyproject.toml | $(VENV)/created
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $(VENV)/installed $@

$(VENV)/installed-bench: pyproject.toml | $(VENV)/created
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	@touch $(VENV)/installed $@

# every `>=X.Y` of pyproject.toml as `==X.Y.*`
$(LOWEST)/installed: pyproject.toml
	$(PYTHON) -m venv $(LOWEST)
	$(PYTHON) -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
		print(*(d.replace(">=", "==") + ".*" for d in p["dependencies"]), sep="\n")' > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --constraint $(LOWEST)/constraints.txt --editable '.[test]'
	@touch $@

demo: $(VENV)/installed
	$(BIN)/histo demo

test: $(VENV)/installed-dev
	$(BIN)/python $(TESTS)

kill-test: $(VENV)/installed-dev
	HISTO_KILL_TEST=all $(BIN)/python $(TESTS) tests/faults/test_kill.py

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/generate.py --check

check: lint site package test

package: $(VENV)/installed-dev
	$(BIN)/python tools/release.py

docs: $(VENV)/installed-dev
	$(BIN)/python docs/generate.py

site: $(VENV)/installed-dev
	$(BIN)/mkdocs build --strict --quiet

# what old packages warn of is what newer ones below them will take away
test-lowest: $(LOWEST)/installed
	$(LOWEST)/bin/python $(TESTS) -W ignore::DeprecationWarning

audit: $(VENV)/installed-dev
	$(BIN)/python -m pip install --quiet --editable '.[onnx,parquet,slides,lora,tensorboard,wandb,mlflow,tune]'
	$(BIN)/python tools/audit.py

fuzz: $(VENV)/installed-dev
	FUZZ=20 $(BIN)/python $(TESTS) -rs tests/faults/test_hostile.py tests/faults/test_fuzz.py tests/faults/test_guided_fuzz.py

bench: $(VENV)/installed-bench
	$(BIN)/python -m benchmarks.bench

clean:
	rm -rf $(VENV) $(LOWEST) site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage

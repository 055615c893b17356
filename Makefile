# make demo | test | check | lint | docs | site ; needs only Python 3.11 or newer (PYTHON=python3.12 to choose one)
PYTHON ?= python3
VENV := .venv
LOWEST := .venv-lowest
BIN := $(VENV)/bin
# one process more than there are cores, because tests wait for other processes and for the disk; each process runs
# neighbouring tests, which share fixtures
WORKERS := $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
TESTS := -m pytest -n $(WORKERS) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help demo test kill-test check lint docs site package bench test-lowest audit fuzz clean

help:
	@echo "make demo         install, and run all steps on synthetic patches"
	@echo "make test         install with the test tools, and run the tests: about 20 minutes on two cores"
	@echo "make lint         check the code with ruff and mypy, and whether make docs is needed"
	@echo "make check        everything that CI runs: lint, site, package, test"
	@echo "make docs         write docs/cli.md and completions/ again"
	@echo "make site         build the documentation into site/; a dead link is an error"
	@echo "make package      build the sdist and the wheel into dist/, and check them"
	@echo "make bench        measure speed against other tools, and write benchmarks/README.md"
	@echo "make test-lowest  run the tests with the oldest versions that pyproject.toml allows"
	@echo "make kill-test    kill a process, and let the disk fail, at each operation on a file: some hours"
	@echo "make fuzz         try more damaged and hostile files than make test does: some minutes; keeps what it finds"
	@echo "make audit        look for known vulnerabilities of the dependencies, and check their licences"
	@echo "make clean        remove the installations and everything that was built"

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

# two at a time: each of the first three uses one core
check: $(VENV)/installed-dev
	$(MAKE) --no-print-directory -j 2 lint package site
	$(MAKE) --no-print-directory test

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

# make install environment and install
# make bench   the same, and the quick benchmark of every runtime
# make test    the same, and the tests
# make lint    ruff; mypy on router and runtimes
#
# Variables: PYTHON (3.11 to 3.13; python3), VENV (.venv), EXTRAS (all), BENCH_ARGS, PYTEST_ARGS.
# pip's own settings are honoured: PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS, CMAKE_ARGS for a GPU build (docs/install.md).

PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= all
BENCH_ARGS ?= all-runtimes --quick
# A worker for each core, four at most: each holds torch, ONNX Runtime and more, two gigabytes or so. A file's tests
# stay together, because they share what its fixtures make.
PYTEST_ARGS ?= -n logical --maxprocesses 4 --dist loadfile

BIN := $(VENV)/bin
ACCURACY := docs/bench/accuracy.json
# The stamp's name holds a checksum of what decides the environment, so a fresh checkout beside a kept environment
# does not install again, and a changed pin does.
KEY := $(shell { cat pyproject.toml constraints.txt; echo "$(EXTRAS) $(CURDIR)"; } | cksum | cut -d ' ' -f 1)
STAMP := $(VENV)/.installed-$(KEY)

.PHONY: help install bench test lint docs wheel-check clean

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

install: $(STAMP)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "edgecall's libraries need Python 3.11 to 3.13; name one: make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(STAMP): | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=24.1"
	$(BIN)/python -m pip install --disable-pip-version-check -e ".[$(EXTRAS)]" -c constraints.txt
	@rm -f $(VENV)/.installed-*
	@touch $@

bench: $(STAMP)
	$(BIN)/bench $(BENCH_ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# docs/cli.md from what --help prints, the README's tables and the models' cards from the committed reports (accuracy.json
# where there is one); tests fail where they differ.
docs: $(STAMP)
	$(BIN)/python -m edgecall.help_page > docs/cli.md.new
	mv docs/cli.md.new docs/cli.md
	$(BIN)/python -m bench.readme docs/bench/report.json README.md
	test ! -f $(ACCURACY) || $(BIN)/python -m bench.readme $(ACCURACY) README.md
	$(BIN)/edgecall train card models/seed --report docs/bench/report.json \
	  $(if $(wildcard $(ACCURACY)),--accuracy $(ACCURACY)) --out models/seed/README.md

# A wheel, installed into an empty environment away from the checkout, routes a request. Minutes, so not part of test.
wheel-check: $(STAMP)
	.ci/wheel-check $(BIN)/python

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# `make` lists the targets. All of them make the environment they need in .venv on first use.

PYTHON ?= python3
# One exact release, and installed before all else: a plain `torch` means the newest, which on Linux
# comes with gigabytes of GPU libraries. An exact release lets pip take a CPU build that it already
# has at hand, and what is installed satisfies every later requirement.
TORCH ?= torch==2.13.0

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# Exact versions of everything that is installed into $(VENV), by version of Python, so that a clone
# behaves tomorrow as it does today. `make update` rewrites them. The variables reach the isolated
# environments that pip builds packages in; pip before 25.3 knows the first, later ones the second.
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
LOCKED := $(wildcard constraints/py$(VERSION).txt)
locked = PIP_CONSTRAINT="$(CURDIR)/$1" PIP_BUILD_CONSTRAINT="$(CURDIR)/$1"
LOCK := $(if $(LOCKED),$(call locked,$(LOCKED)))
RUN_OFFLINE := HF_HUB_OFFLINE=1

.DEFAULT_GOAL := help
.PHONY: help demo test compatibility releases newest oldest pythons lanes update lint format types docs notebook clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 16

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "$(PYTHON) is older than Python 3.10: make PYTHON=/path/to/python3.10 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@[ -n "$(LOCKED)" ] || echo "there is no constraints/py$(VERSION).txt: the newest of everything is installed" >&2

$(VENV)/torch: | $(BIN)/python
	$(LOCK) $(PIP) install --quiet $(TORCH)
	@touch $@

$(VENV)/test: pyproject.toml $(LOCKED) | $(VENV)/torch
	$(LOCK) $(PIP) install --quiet --editable '.[test]'
	@touch $@

$(VENV)/dev: pyproject.toml $(LOCKED) | $(VENV)/test
	$(LOCK) $(PIP) install --quiet --editable '.[test,docs,dev]'
	@touch $@

demo: $(VENV)/test  ## a graph of a real prompt: tokyo.html, tokyo.json and a summary
	$(RUN_OFFLINE) $(BIN)/visit-tl graph "The capital of Japan is the city of" \
		--out tokyo.html --json tokyo.json --force

# Two processes with a thread each are nearly twice as quick as one with two: small models leave
# little to share. Each holds a copy of the embedded model (1.3 GB).
WORKERS ?= 2
SHARED := OMP_NUM_THREADS=1 $(RUN_OFFLINE)

# The longest file comes first, so that no worker is left alone with it at the end.
# To check shapes and types at every call takes five times as long as the tests themselves. So all
# tests are run without, and then of each test of small models one in twelve with. `pytest` by itself
# always checks.
test: $(VENV)/test  ## every test
	$(SHARED) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(UNCHECKED) \
		tests/test_docs.py tests
	$(SHARED) $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile -m "not model and not browser" \
		--each 12 tests

# The core tests beside other versions, each lane in an environment of its own under build/. What is
# about pages, browsers and the embedded model is not about versions.
# What kills and damages runs, and reads files of prompts, no release changes; memory values and
# states are made of the same parts as the heads.
SWEEPS := $(filter-out $(addprefix %/test_,faults.py overlap.py paper_memories.py paper_residual.py \
	prompt_sources.py ray.py),$(wildcard tests/sweeps/test_*.py))
CORE := tests/atlas tests/causal tests/circuits tests/gradients tests/graph tests/model tests/segments tests/studies tests/test_by_hand.py \
	tests/test_cli.py tests/test_components.py tests/test_lens.py tests/test_refusals.py tests/test_releases.py \
	tests/test_states.py tests/test_tokens.py tests/test_trace.py $(SWEEPS)
CORE_TESTS := -m pytest -q -p no:cacheprovider -n $(WORKERS) --dist loadfile -m "not model"
TOOLS := pytest pytest-timeout pytest-xdist hypothesis
RELEASES := 2.18 3.9
# Without shapes and types checked: that takes five times as long, `make test` does it, and the
# beartype that TransformerLens 2.x insists on cannot. `newest` checks them in some files.
UNCHECKED := -o addopts='-ra --strict-markers --strict-config'
CHECKED_TOO := tests/test_components.py tests/test_lens.py tests/test_states.py tests/test_trace.py
# A lane runs one in three of each parametrised test; between them they run all.
OPTIONS_tl-2.18 := $(UNCHECKED) --each 3:0
OPTIONS_tl-3.9 := $(UNCHECKED) --each 3:1
OPTIONS_oldest := $(UNCHECKED) --each 3:2

.PRECIOUS: build/%/ready
build/%/ready: pyproject.toml constraints/%.txt
	$(PYTHON) -m venv --clear build/$*
	$(call locked,constraints/$*.txt) build/$*/bin/python -m pip --disable-pip-version-check install \
		--quiet $(TORCH)
	$(call locked,constraints/$*.txt) build/$*/bin/python -m pip --disable-pip-version-check install \
		--quiet --editable $(if $(filter py%,$*),'.[test]','.[parquet]' $(TOOLS))
	@touch $@

LANES := oldest $(RELEASES:%=tl-%)
PYTHONS := 3.10 3.13 3.12 3.11
.PHONY: $(LANES:%=lane-%) $(PYTHONS:%=lane-py%)
$(LANES:%=lane-%) $(PYTHONS:%=lane-py%): lane-%: build/%/ready
	@build/$*/bin/python tests/releases/versions.py
	$(SHARED) build/$*/bin/python $(CORE_TESTS) $(OPTIONS_$*) $(if $(filter py%,$*),$(OTHER_CORE),$(CORE))

releases: $(RELEASES:%=lane-tl-%)  ## the core tests with older releases of TransformerLens

oldest: lane-oldest  ## the core tests with the lowest versions that pyproject.toml allows

# The newest of everything, as somebody gets it who installs the package today. torch stays the one
# release of which a CPU build is at hand. On a day when every version is the one in the constraints,
# `make test` has run all tests with them, and this lane says so.
newest: newest-environment  ## the core tests with the newest release of everything, in build/newest
	@build/newest/bin/python tests/releases/versions.py
	@if build/newest/bin/python tests/releases/versions.py $(or $(LOCKED),/dev/null); then \
		echo "nothing is newer than in $(LOCKED), with which make test runs these tests"; \
	else \
		set -x; \
		$(SHARED) build/newest/bin/python $(CORE_TESTS) $(UNCHECKED) --each 2:1 $(CORE) && \
		$(SHARED) build/newest/bin/python $(CORE_TESTS) $(CHECKED_TOO); \
	fi

.PHONY: newest-environment
newest-environment:
	$(PYTHON) -m venv --clear build/newest
	build/newest/bin/python -m pip --disable-pip-version-check install --quiet $(TORCH)
	build/newest/bin/python -m pip --disable-pip-version-check install --quiet --editable '.[test]'

# Two environments, two minutes each; every family in a process of its own.
TABLE := -W ignore -m tests.families.table
compatibility: $(VENV)/test newest-environment  ## docs/compatibility.md from small models of every family
	$(SHARED) $(BIN)/python $(TABLE) --measure locked
	$(SHARED) build/newest/bin/python $(TABLE) --measure newest
	$(BIN)/python $(TABLE) --write

# Another version of Python, the one that is furthest from the usual first: what a version of Python
# can break, not the whole core. Where there is no CPU build of torch for it, this brings gigabytes of
# GPU libraries.
OTHER_CORE := tests/arguments tests/graph tests/model/test_from_transformers.py tests/test_by_hand.py \
	tests/test_cli.py tests/test_components.py tests/test_lens.py tests/test_states.py tests/test_tokens.py \
	tests/test_trace.py
pythons:  ## tests with another Python than $(PYTHON), where one is found
	@for version in $(filter-out $(VERSION),$(PYTHONS)); do \
		for python in python$$version $$HOME/.pyenv/versions/$$version.*/bin/python; do \
			$$python -c '' 2>/dev/null || continue; \
			exec $(MAKE) --no-print-directory lane-py$$version PYTHON=$$python; \
		done; \
	done; \
	echo "no Python but $(PYTHON) is found: nothing is tested here"

# Each lane of CI takes one core, two of them side by side.
lanes: releases newest oldest pythons  ## all of these; CI runs: make --jobs=2 WORKERS=0 lanes

# uv resolves for Pythons that are not installed. The patch releases are the ones that are tested.
UPDATED := 3.10.13 3.11.7 3.12.1 3.13.0
COMPILE = echo '$(TORCH)' | build/uv/bin/uv pip compile --quiet --no-header --no-annotate --constraint -
update:  ## resolve constraints/ afresh, then run every test with them
	$(PYTHON) -m venv build/uv
	build/uv/bin/python -m pip --disable-pip-version-check install --quiet uv
	@for version in $(UPDATED); do \
		file=constraints/py$${version%.*}.txt; echo "$$file"; rm -f "$$file"; \
		$(COMPILE) --python-version "$$version" --python-platform linux --extra test --extra docs \
			--extra dev --output-file "$$file" pyproject.toml constraints/build.in || exit 1; \
	done
	@for lane in $(LANES); do \
		file=constraints/$$lane.txt; echo "$$file"; rm -f "$$file"; \
		[ $$lane = oldest ] && how="--resolution lowest-direct" || how=; \
		$(COMPILE) $$how --python-version 3.11.7 --python-platform linux --extra parquet \
			--constraint constraints/$$lane.in --output-file "$$file" pyproject.toml \
			constraints/build.in constraints/tools.in || exit 1; \
	done
	@$(MAKE) --no-print-directory test || { \
		echo "the tests fail with these versions; git checkout constraints brings the old ones back" >&2; \
		exit 1; }

lint: $(VENV)/dev  ## ruff: rules and format; import-linter: which room imports which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo

format: $(VENV)/dev  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/dev  ## pyright over the package
	$(BIN)/pyright --pythonpath $(BIN)/python

# The variable silences an advertisement that the theme prints at every build.
docs: $(VENV)/dev  ## the documentation, strictly, into site/
	NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict --quiet

NOTEBOOKS := $(wildcard examples/*.ipynb)
notebook: $(NOTEBOOKS:examples/%.ipynb=run-%)  ## execute every notebook in examples/ into build/notebooks/
	@[ -n "$(NOTEBOOKS)" ] || { echo "examples/ holds no notebook" >&2; exit 1; }

.PHONY: $(NOTEBOOKS:examples/%.ipynb=run-%)
$(NOTEBOOKS:examples/%.ipynb=run-%): run-%: $(VENV)/dev
	@mkdir -p build/notebooks
	@echo examples/$*.ipynb
	@$(SHARED) $(BIN)/python -m nbconvert --to notebook --execute --log-level WARN \
		--ExecutePreprocessor.timeout=600 --output-dir build/notebooks examples/$*.ipynb

clean:  ## remove everything that make made, the environment too
	rm -rf $(VENV) build dist site .pytest_cache .ruff_cache .hypothesis tokyo.html tokyo.json
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

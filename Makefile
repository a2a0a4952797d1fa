PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= $(shell getconf _NPROCESSORS_ONLN)
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e

# the environment of test-python, one a version
OTHER = .venv-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')

.PHONY: help book html lab pdf test test-python test-floor bench course env lint outputs clean

help:
	@echo "make book     execute every chapter on this machine, then render the pages"
	@echo "make html     render the committed outputs, without executing"
	@echo "make lab      open the chapters in JupyterLab, on this machine only"
	@echo "make pdf      the committed outputs as one file, printed by a Chromium"
	@echo "make test     lint, types, tests of the package, the notebooks and the pages"
	@echo "make test-python PYTHON=python3.13   the tests of the package alone, on another Python"
	@echo "make test-floor PYTHON=python3.11   the tests of methods, models, metrics and training on PyTorch 2.4"
	@echo "make bench    our code beside the peers, as a table of ratios"
	@echo "make course   prove the marker of assignments on this machine, and record the proof"
	@echo "make outputs  execute, then keep the outputs in notebooks/ for a commit"
	@echo "make lint     ruff and mypy only"
	@echo "make env      the environment only"
	@echo "make clean    remove what was built; the environment stays"

book: $(VENV)/.has-book
	$(BIN)/python tools/book.py execute --jobs $(JOBS)
	$(BIN)/python tools/book.py render

html: $(VENV)/.has-book
	$(BIN)/python tools/book.py render --committed

# its port takes connections of this machine alone; LAB="--port 9000" passes flags on
lab: $(VENV)/.has-lab
	$(BIN)/python -m jupyterlab --ip=127.0.0.1 --notebook-dir=. $(LAB) notebooks/data.ipynb

pdf: $(VENV)/.has-dev html
	$(BIN)/python tools/pdf.py

outputs: $(VENV)/.has-book
	$(BIN)/python tools/book.py execute --jobs $(JOBS)
	$(BIN)/python tools/book.py keep

lint: $(VENV)/.has-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# the groups are those of tests/_groups.py
SIDE_BY_SIDE := -n $(JOBS) --dist loadgroup --no-loadscope-reorder

test: lint
	$(ONE_THREAD) $(BIN)/python -m pytest $(SIDE_BY_SIDE)

test-python:
	$(MAKE) PYTHON=$(PYTHON) VENV=$(OTHER) $(OTHER)/.has-dev
	$(ONE_THREAD) $(OTHER)/bin/python -m pytest $(SIDE_BY_SIDE) \
	  --ignore=tests/test_book.py --ignore=tests/test_notebooks.py

# the packages of constraints-floor.txt; transformers, of the extra pretrained, needs a newer PyTorch, and the
# inductor of 2.4 changes settings of the process
FLOOR := .venv-floor
FLOOR_TESTS := $(wildcard tests/test_cka*.py) $(patsubst %,tests/test_%.py,codebook curriculum gradients lars \
  layers normalization projection recurrent scale transport) tests/metrics tests/models tests/training
NEWER := $(patsubst %,--ignore=tests/models/test_%.py,caption_inputs encoders inputs pretrained)

test-floor:
	$(MAKE) PYTHON=$(PYTHON) VENV=$(FLOOR) $(FLOOR)/.has-floor
	$(ONE_THREAD) $(FLOOR)/bin/python -m pytest $(SIDE_BY_SIDE) $(FLOOR_TESTS) $(NEWER) -k 'not inductor'

bench: $(VENV)/.has-dev
	$(ONE_THREAD) $(BIN)/python -m benchmarks.cka
	$(ONE_THREAD) $(BIN)/python -m benchmarks.shapes
	$(ONE_THREAD) $(BIN)/python -m benchmarks.training
	$(ONE_THREAD) $(BIN)/python -m benchmarks.neumatch
	$(ONE_THREAD) $(BIN)/python -m benchmarks.sequences
	$(ONE_THREAD) $(BIN)/python -m benchmarks.gradients

course: $(VENV)/.has-book
	$(BIN)/modalign course check --json course/proof.json

env: $(VENV)/.has-book

clean:
	rm -rf _build

# a failed venv leaves a python without pip: pip is what tells a whole one
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("modalign needs Python 3.10 or newer and \
	$(PYTHON) is " + sys.version.split()[0] + "; name another one: make book PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.has-book: pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) '.[book]'
	@touch $@

$(VENV)/.has-dev: pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) '.[dev]'
	@touch $@ $(VENV)/.has-book

$(VENV)/.has-floor: pyproject.toml constraints-floor.txt | $(BIN)/pip
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints-floor.txt \
	  -e '.[rerun,bench,test]'
	@touch $@

$(VENV)/.has-lab: pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) '.[lab]'
	@touch $@ $(VENV)/.has-book

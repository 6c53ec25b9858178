PYTHON      ?= python3
VENV        ?= .venv
CONSTRAINTS ?= constraints.txt
OUT         ?= out/demo

PY    := $(VENV)/bin/python
STAMP := $(VENV)/.installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup demo test lint docs notebooks notebooks-check clean

setup: $(STAMP)

# torch goes in first and by pip, so that nothing later replaces the build named in the constraints.
$(STAMP): pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q -c $(CONSTRAINTS) torch uv
	$(PY) -m uv pip install -q --compile-bytecode --python $(PY) -c $(CONSTRAINTS) -e '.[test]' \
	  || $(PY) -m pip install -q -c $(CONSTRAINTS) -e '.[test]'
	@$(PY) -m uv pip install -q --compile-bytecode --python $(PY) -c $(CONSTRAINTS) -e '.[baselines]' \
	  || echo "pysteps could not be compiled: models sprog, anvil and steps are not available, their tests are skipped"
	@touch $@

demo: setup
	$(PY) -m nowcast demo --out $(OUT)

test: lint
	$(PY) -m pytest

# Runs each notebooks/NN_name.py and keeps its outputs in the .ipynb beside it; 02, 04 and 05 need the real radar files.
notebooks: setup
	$(PY) notebooks/execute.py

# Runs them and keeps nothing.
notebooks-check: setup
	OMP_NUM_THREADS=1 $(PY) -m pytest --nbmake --nbmake-timeout=600 notebooks

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

# What the site is built with comes in once; building and reading it need no network.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

$(VENV)/.docs: $(STAMP)
	$(PY) -m uv pip install -q --compile-bytecode --python $(PY) -c $(CONSTRAINTS) -e '.[docs]' \
	  || $(PY) -m pip install -q -c $(CONSTRAINTS) -e '.[docs]'
	@touch $@

clean:
	rm -rf $(VENV) out .mypy_cache .pytest_cache .ruff_cache *.egg-info

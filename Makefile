# `make demo`: the whole story on handwritten digits. `make test`: the tests. `make check`: linters. `make docs`: the site.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test check docs bench clean

demo: .venv/.base
	$(BIN)/snrouter demo

# one thread a process: the tests run in as many processes as there are cores
test: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal --cov --cov-report=term:skip-covered --cov-fail-under=90

check: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/.docs
	$(BIN)/mkdocs build --strict --quiet

bench: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/routing_overhead.py

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.base: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) --editable .
	touch $@

# torch-fidelity lies beside what is installed: torchmetrics would import it, which fails where torchvision is missing
.venv/.dev: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) --editable '.[dev]'
	$(INSTALL) --no-deps --upgrade --target .venv/torch-fidelity torch-fidelity
	touch $@ .venv/.base

.venv/.docs: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) --editable '.[docs]'
	touch $@ .venv/.base

clean:
	rm -rf .venv site dist build runs

# make demo    installs, raises an assistant for your own Python, says how to chat
# make test    installs, runs all tests
# make check   installs, lint, format, types, layers, taste
# make locked  installs exactly what requirements.lock names, by hash, as CI does; then the others use it
# make audit   asks for known vulnerabilities in what requirements.lock names

PYTHON ?= python3
BIN := .venv/bin
PIP = $(BIN)/python -m pip --quiet --disable-pip-version-check

.PHONY: install locked audit demo test check bench clean

install: .venv/.installed

.venv/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("fledge needs Python 3.11 or newer: make PYTHON=python3.12 …" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(PIP) install -e '.[dev]'
	@touch $@

locked:
	$(PYTHON) -m venv .venv
	$(PIP) install --no-deps --require-hashes -r requirements.lock
	$(PIP) install --no-deps "$$($(BIN)/python tests/lock.py --torch)"
	$(PIP) install --no-deps --no-build-isolation -e .
	$(PIP) check
	@touch .venv/.installed

audit:
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/python -m pip install --quiet pip-audit
	.venv/audit/bin/pip-audit --no-deps --disable-pip --require-hashes -r requirements.lock

demo: install
	$(BIN)/fledge raise pydoc

test: install
	$(BIN)/python -m pytest

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layers.py tests/test_taste.py

bench: install
	$(PIP) install -e '.[bench]'
	for file in benchmarks/bench_*.py; do $(BIN)/python $$file || exit 1; done

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
